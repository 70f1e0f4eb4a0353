"use strict";
/* The page's data is JSON in <script id="data">; the responses are gzip chunks in <script id="chunk-N">, unpacked when one
   is opened or searched. Every text reaches the page as a text node. Only the formulas' markup is parsed, and that was
   written by gmpo_mm.evaluation.latex from a closed list of elements and attributes. */
(() => {
  const byId = (id) => document.getElementById(id);
  window.addEventListener("error", (event) => fail(event.message));
  window.addEventListener("unhandledrejection", (event) => fail(String(event.reason)));
  function fail(message) {
    const box = byId("failure");
    box.hidden = false;
    box.textContent = `This page met an error: ${message}`;
    document.documentElement.dataset.failure = message;
  }

  const data = JSON.parse(byId("data").textContent);
  const words = { right: "✓ right", wrong: "✗ wrong", no_answer: "∅ no answer", timeout: "◷ timed out", error: "! error",
    not_evaluated: "⧉ not worked out" };
  const SAMPLE = 0, STATE = 1, TRUNCATED = 2, ANSWER = 3, WHY = 4, TOKENS = 5, RESPONSE = 6; // places in a sample's row
  const stateNumber = Object.fromEntries(data.states.map((name, number) => [name, number]));
  const PAGE = 20; // problems that are drawn at once
  const problems = data.problems.map((problem, index) => {
    const right = problem.samples.filter((sample) => sample[STATE] === 0).length;
    const tokens = problem.samples.reduce((sum, sample) => sum + sample[TOKENS], 0);
    return { ...problem, index, right, tokens, disagreed: right > 0 && right < problem.samples.length };
  });

  /* --- texts --- */
  const element = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  function formula([source, markup]) {
    const node = element(markup ? "span" : "code", "formula");
    node.title = source;
    if (markup) node.innerHTML = markup;
    else node.textContent = source;
    return node;
  }

  /* Pieces: text, a formula's number, a list (where the answer was taken from), or {cut: characters left out}. */
  function write(parent, pieces, math) {
    for (const piece of pieces) {
      if (typeof piece === "string") parent.append(piece);
      else if (typeof piece === "number") parent.append(formula(math[piece]));
      else if (Array.isArray(piece)) parent.append(write(element("mark"), piece, math));
      else parent.append(element("p", "soft", `… ${piece.cut.toLocaleString("en")} characters left out here; samples.jsonl has them …`));
    }
    return parent;
  }

  const source = (pieces, math) => pieces.map((piece) => typeof piece === "string" ? piece
    : typeof piece === "number" ? math[piece][0] : Array.isArray(piece) ? source(piece, math) : " ").join("");

  /* --- responses --- */
  const chunks = new Map();
  function chunk(number) {
    if (!chunks.has(number)) chunks.set(number, unpack(byId(`chunk-${number}`).textContent.trim()));
    return chunks.get(number);
  }
  async function unpack(base64) {
    if (!("DecompressionStream" in window)) throw new Error("this browser can't unpack the responses; one of 2023 or later can");
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  const chunkOf = (problem) => Math.floor(problem.index / data.perChunk);

  async function showResponse(problem, place, parent) {
    const { math, responses } = await chunk(chunkOf(problem));
    const pieces = responses[problem.index % data.perChunk][problem.samples[place][RESPONSE]];
    const text = write(element("div", "text"), pieces, math);
    text.tabIndex = 0;
    if (pieces.length === 0) text.append(element("span", "soft", "(empty)"));
    parent.append(text);
  }

  /* --- what is looked for --- */
  const state = { show: "all", type: "", form: "", sort: "order", q: "", open: false, problem: "" };
  const tests = {
    all: () => true,
    right: (sample) => sample[STATE] === 0,
    wrong: (sample) => sample[STATE] === stateNumber.wrong,
    disagreed: (sample, problem) => problem.disagreed,
    truncated: (sample) => sample[TRUNCATED] === 1,
    no_answer: (sample) => sample[STATE] === stateNumber.no_answer,
    timeout: (sample) => sample[STATE] === stateNumber.timeout,
    error: (sample) => sample[STATE] === stateNumber.error,
    not_evaluated: (sample) => sample[STATE] === stateNumber.not_evaluated,
  };
  let responseTexts = null; // problem -> its different responses in lower case, once a search has asked for them
  const problemTexts = problems.map((problem) => [problem.id, source(problem.text, data.math),
    ...problem.golds.map((gold) => source(gold, data.math))].join("\n").toLowerCase());
  const answerTexts = data.answers.map((answer) => source(answer, data.math).toLowerCase());

  async function readResponses() {
    const texts = [];
    for (let number = 0; byId(`chunk-${number}`); number++) {
      const { math, responses } = await chunk(number);
      for (const different of responses) texts.push(different.map((pieces) => source(pieces, math).toLowerCase()));
    }
    responseTexts = texts;
  }

  /* Whether each sample of a problem holds the searched text; a hit in the problem itself counts for all of them. */
  function searched(problem, query) {
    if (!query || problemTexts[problem.index].includes(query)) return problem.samples.map(() => true);
    return problem.samples.map((sample) => (sample[ANSWER] >= 0 && answerTexts[sample[ANSWER]].includes(query))
      || (responseTexts !== null && responseTexts[problem.index][sample[RESPONSE]].includes(query)));
  }

  let matches = []; // of the problems to show: {problem, hits: one boolean a sample}
  function select() {
    const query = state.q.trim().toLowerCase();
    const counts = Object.fromEntries(Object.keys(tests).map((name) => [name, { samples: 0, problems: 0 }]));
    matches = [];
    for (const problem of problems) {
      if (state.type !== "" && data.types[problem.type] !== state.type) continue;
      if (state.form !== "" && data.forms[problem.form] !== state.form) continue;
      const found = searched(problem, query);
      if (!found.includes(true) && !(found.length === 0 && !query)) continue;
      for (const [name, test] of Object.entries(tests)) {
        const hits = problem.samples.map((sample, place) => found[place] && test(sample, problem));
        const number = hits.filter(Boolean).length;
        counts[name].samples += number;
        counts[name].problems += number > 0;
        if (name === state.show && (number > 0 || name === "all")) matches.push({ problem, hits });
      }
    }
    const share = ({ problem }) => problem.right / Math.max(1, problem.samples.length);
    if (state.sort === "hard") matches.sort((a, b) => share(a) - share(b));
    if (state.sort === "easy") matches.sort((a, b) => share(b) - share(a));
    if (state.sort === "long") matches.sort((a, b) => b.problem.tokens - a.problem.tokens);
    return counts;
  }

  /* --- drawing --- */
  const number = (value) => value.toLocaleString("en");
  const counted = (value, word) => `${number(value)} ${word}${value === 1 ? "" : "s"}`;
  const list = byId("problems");
  let drawn = 0;
  let loading = []; // responses that are being unpacked

  function drawProblem({ problem, hits }) {
    const card = element("article", "problem");
    card.id = `problem-${problem.index}`;
    card.tabIndex = -1;
    const header = element("header");
    const link = element("a", "", `Problem ${problem.index + 1}`);
    link.href = `#problem=${problem.index + 1}`;
    header.append(link);
    if (problem.id !== String(problem.index)) header.append(element("span", "", problem.id));
    if (problem.type >= 0) header.append(element("span", "tag", data.types[problem.type]));
    if (problem.form >= 0) header.append(element("span", "tag", data.forms[problem.form]));
    header.append(element("span", "share", data.n > 1 ? `${problem.right} of ${problem.samples.length} right` : ""));
    card.append(header);
    const asked = element("div", "asked");
    if (problem.pictures.length) asked.append(drawPictures(problem));
    const words = element("div");
    words.append(write(element("div", "text question"), problem.text, data.math));
    const gold = element("div", "gold");
    gold.append(element("span", "soft", problem.golds.length > 1 ? "Right answers: " : "Right answer: "));
    for (const answer of problem.golds) gold.append(write(element("span", "answer"), answer, data.math));
    words.append(gold);
    asked.append(words);
    card.append(asked);
    for (const group of grouped(problem)) card.append(drawGroup(problem, group, hits));
    if (problem.samples.length < data.n) {
      card.append(element("p", "soft", `${data.n - problem.samples.length} of ${data.n} samples are not there yet.`));
    }
    return card;
  }

  function drawPictures(problem) {
    const box = element("div", "pictures");
    problem.pictures.forEach((picture, place) => {
      const image = element("img");
      image.alt = `Picture ${place + 1} of problem ${problem.index + 1}`;
      image.decoding = "async";
      image.onload = () => {
        if (image.naturalWidth >= 100) return;
        image.className = "tiny";
        image.style.width = `${image.naturalWidth * 3}px`;
      };
      image.src = data.pictures[picture];
      box.append(image);
    });
    return box;
  }

  /* Samples with the same grade and the same answer, the most frequent first. */
  function grouped(problem) {
    const groups = new Map();
    problem.samples.forEach((sample, place) => {
      const key = [sample[STATE], sample[ANSWER]].join();
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(place);
    });
    const first = ([place]) => problem.samples[place][STATE];
    return [...groups.values()].sort((a, b) => first(a) - first(b) || b.length - a.length);
  }

  function drawGroup(problem, places, hits) {
    const sample = problem.samples[places[0]];
    const name = data.states[sample[STATE]];
    const group = element("div", `group ${name}`);
    if (!places.some((place) => hits[place])) group.classList.add("apart");
    group.append(element("span", "state", words[name] + (places.length > 1 ? ` × ${places.length}` : "")));
    const answer = element("span", "answer");
    if (sample[ANSWER] >= 0) write(answer, data.answers[sample[ANSWER]], data.math);
    else answer.append(element("span", "soft", "–"));
    const whys = [...new Set(places.map((place) => data.whys[problem.samples[place][WHY]]))].filter(Boolean);
    if (whys.length) answer.append(element("span", "why", whys.join("; ")));
    const chips = element("span", "chips");
    group.append(answer, chips);
    for (const equal of identical(problem, places)) chips.append(drawChip(problem, equal, group, equal.some((place) => hits[place])));
    return group;
  }

  /* Samples with the same response to the last character, those that most samples gave first. */
  function identical(problem, places) {
    const found = new Map();
    for (const place of places) {
      const key = [problem.samples[place][RESPONSE], problem.samples[place][TRUNCATED]].join();
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(place);
    }
    return [...found.values()].sort((a, b) => b.length - a.length);
  }

  /* A button that opens a response; `places` are the samples that gave it. */
  function drawChip(problem, places, group, hit) {
    const [place] = places;
    const samples = places.map((one) => problem.samples[one]);
    const [sample] = samples;
    const chip = element("button", hit ? "" : "apart");
    chip.type = "button";
    const what = places.length > 1 ? `${places.length} identical responses` : data.n > 1 ? `response ${sample[SAMPLE] + 1}` : "response";
    chip.append(`${what} · ${tokensOf(samples)}`);
    if (sample[TRUNCATED]) chip.append(element("span", "cut", " ✂ truncated"));
    chip.title = `open or close what ${namesOf(samples)} answered`;
    chip.setAttribute("aria-expanded", "false");
    let panel = null;
    chip.onclick = () => {
      const open = panel === null || panel.hidden;
      chip.setAttribute("aria-expanded", String(open));
      if (panel === null) {
        panel = element("div", "response");
        panel.append(element("p", "about", about(samples)));
        group.append(panel);
        loading.push(showResponse(problem, place, panel));
      }
      panel.hidden = !open;
    };
    if (state.open && hit) chip.onclick();
    return chip;
  }

  const namesOf = (samples) => `sample${samples.length > 1 ? "s" : ""} ${samples.map((one) => one[SAMPLE] + 1).join(", ")}`;
  function tokensOf(samples) {
    const [least, most] = [Math.min, Math.max].map((pick) => pick(...samples.map((one) => one[TOKENS])));
    return `${least === most ? number(least) : `${number(least)} to ${number(most)}`} token${most === 1 ? "" : "s"}`;
  }

  function about(samples) {
    const [sample] = samples;
    const end = sample[TRUNCATED] ? `✂ truncated at ${number(data.maxTokens)} tokens` : "ended by itself";
    const whys = [...new Set(samples.map((one) => data.whys[one[WHY]]))].filter(Boolean).join("; ");
    return [namesOf(samples), words[data.states[sample[STATE]]], whys, tokensOf(samples), end]
      .filter(Boolean).join(" · ");
  }

  function drawMore(upTo = drawn + PAGE) {
    const fragment = document.createDocumentFragment();
    for (; drawn < Math.min(upTo, matches.length); drawn++) fragment.append(drawProblem(matches[drawn]));
    list.append(fragment);
    byId("more").hidden = drawn >= matches.length;
    const left = matches.length - drawn;
    byId("more").textContent = `Show ${number(Math.min(PAGE, left))} more of the ${number(left)} problems that are left`;
  }

  function draw() {
    const counts = select();
    for (const button of document.querySelectorAll("[data-show]")) {
      const count = counts[button.dataset.show];
      button.setAttribute("aria-pressed", String(button.dataset.show === state.show));
      button.hidden = RARE.includes(button.dataset.show) && !seen.has(stateNumber[button.dataset.show]);
      button.disabled = count.problems === 0 && button.dataset.show !== state.show && button.dataset.show !== "all";
      const small = button.querySelector("small");
      const byProblem = data.n === 1 || ["all", "disagreed"].includes(button.dataset.show);
      const inProblems = counted(count.problems, "problem");
      small.textContent = count.problems === 0 ? "none" : byProblem ? inProblems : `${counted(count.samples, "sample")} in ${inProblems}`;
      button.title = `show ${inProblems} with ${counted(count.samples, "such sample")}`;
    }
    for (const key of ["type", "form", "sort"]) if (byId(key)) byId(key).value = state[key];
    if (byId("q").value !== state.q) byId("q").value = state.q;
    byId("open").checked = state.open;
    const hits = matches.reduce((sum, match) => sum + match.hits.filter(Boolean).length, 0);
    byId("shown").textContent = matches.length === 0 ? "No problem is like that."
      : `${number(matches.length)} of ${number(problems.length)} problems, ${number(hits)} of ${number(sampleCount)} samples`;
    list.replaceChildren();
    [drawn, loading] = [0, []];
    const wanted = matches.findIndex(({ problem }) => String(problem.index + 1) === state.problem);
    drawMore(Math.max(PAGE, wanted + 1));
    if (wanted >= 0) {
      const card = byId(`problem-${matches[wanted].problem.index}`);
      card.scrollIntoView();
      Promise.all(loading).then(() => card.scrollIntoView()); // what stands above it has grown
    }
    document.documentElement.dataset.shown = String(matches.length);
  }
  const RARE = ["error", "not_evaluated"]; // offered only where a sample is one
  const seen = new Set(problems.flatMap((problem) => problem.samples.map((sample) => sample[STATE])));
  const sampleCount = problems.reduce((sum, problem) => sum + problem.samples.length, 0);

  /* --- the address's part after #, which keeps what is looked for --- */
  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    state.show = Object.hasOwn(tests, asked.get("show") ?? "") ? asked.get("show") : "all";
    for (const key of ["type", "form", "q", "problem"]) state[key] = asked.get(key) ?? "";
    state.sort = ["hard", "easy", "long"].includes(asked.get("sort")) ? asked.get("sort") : "order";
    state.open = asked.get("open") === "1";
  }
  function writeAddress() {
    const kept = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) {
      if (value && value !== "all" && value !== "order") kept.set(key, value === true ? "1" : value);
    }
    const text = String(kept);
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }
  async function update() {
    if (state.q.trim() && responseTexts === null) {
      byId("shown").textContent = "reading the responses …";
      await readResponses();
    }
    draw();
  }
  function change(key, value) {
    state[key] = value;
    state.problem = "";
    writeAddress();
    return update();
  }

  for (const button of document.querySelectorAll("[data-show]")) button.onclick = () => change("show", button.dataset.show);
  for (const key of ["type", "form", "sort"]) if (byId(key)) byId(key).onchange = (event) => change(key, event.target.value);
  byId("open").onchange = (event) => change("open", event.target.checked);
  let waiting = 0;
  byId("q").oninput = (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change("q", event.target.value), 200);
  };
  byId("more").onclick = () => drawMore();
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && drawn < matches.length && drawMore(),
    { rootMargin: "1200px" }).observe(byId("more"));
  window.addEventListener("hashchange", () => { readAddress(); update(); });
  window.addEventListener("beforeprint", () => drawMore(matches.length));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === byId("q")) { byId("q").value = ""; change("q", ""); byId("q").blur(); return; }
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); byId("q").focus(); }
    if (event.key === "o") change("open", !state.open);
    if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
    const button = document.querySelectorAll("[data-show]")[Number(event.key) - 1];
    if (/^[1-9]$/.test(event.key) && button && !button.disabled) button.click();
  });
  function step(by) {
    const cards = [...list.children];
    const now = cards.indexOf(document.activeElement.closest(".problem"));
    const next = now < 0 ? cards.find((card) => card.getBoundingClientRect().top >= 0) : cards[now + by];
    if (next) { next.focus({ preventScroll: true }); next.scrollIntoView(); }
    if (cards.length - cards.indexOf(next) < 3) drawMore();
  }

  readAddress();
  update().then(() => { document.documentElement.dataset.ready = "1"; });
})();
