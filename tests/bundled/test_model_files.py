"""The shipped folder loads in stock transformers, and its tokenizer, template and pictures are what Qwen2.5-VL expects."""

import json

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from gmpo_mm.toys.synthetic_geometry import draw, make_problem
from gmpo_mm.toys.tiny import SPECIAL_TOKENS, WHOLE_WORDS, write_model_files
from tests.bundled.encoding import FOLDER


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def test_the_shipped_files_are_those_that_the_code_writes(tmp_path):
    write_model_files(tmp_path)
    for made in tmp_path.iterdir():
        assert made.read_bytes() == (FOLDER / made.name).read_bytes(), made.name


def test_stock_classes_load_every_weight():
    model, loading = AutoModelForImageTextToText.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model) is transformers.Qwen2_5_VLForConditionalGeneration
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_131_040
    assert sum(parameter.numel() for parameter in model.model.visual.parameters()) == 496_544
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.get_input_embeddings().weight
    decoder = model.model.language_model
    wavelengths = decoder.rotary_emb.inv_freq
    torch.testing.assert_close(wavelengths, 10000.0 ** (-torch.arange(16) / 16))
    rope = getattr(decoder.config, "rope_parameters", None) or decoder.config.rope_scaling
    assert rope["mrope_section"] == [4, 6, 6]


def test_config_and_tokenizer_agree_on_every_special_token(tokenizer):
    config = AutoConfig.from_pretrained(FOLDER)
    assert config.get_text_config().vocab_size == len(tokenizer) == max(tokenizer.get_vocab().values()) + 1
    for key, token in {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }.items():
        assert getattr(config, key) == tokenizer.convert_tokens_to_ids(token)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert GenerationConfig.from_pretrained(FOLDER).eos_token_id == tokenizer.eos_token_id
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Grüße, 漢字 \N{GREEK SMALL LETTER PI}r² 🙂\n\n\t x  =\r\n<think>4*6=24</think>\\boxed{24}<|im_end|> $\\frac{1}{2}$"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    everything = bytes(range(128)).decode()
    assert tokenizer.decode(tokenizer.encode(everything)) == everything
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text.replace("<|im_end|>", "")


def test_newlines_digits_and_the_tasks_words_are_single_tokens(tokenizer):
    for piece in ["\n", *"0123456789", *SPECIAL_TOKENS]:
        assert len(tokenizer.encode(piece)) == 1, piece
    response = tokenizer.encode("<think>4*6=24</think>\\boxed{24}<|im_end|>")
    assert [tokenizer.decode([token]) for token in response] == [
        "<think", ">", "4", "*", "6", "=", "2", "4", "</", "think", ">\\", "boxed", "{", "2", "4", "}", "<|im_end|>"
    ]  # fmt: skip
    words = [word for word in WHOLE_WORDS if word[0] != " "]
    assert [len(tokenizer.encode(word)) for word in words] == [1] * len(words)


def test_the_chat_template_writes_qwens_turns_and_one_placeholder_a_picture(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Area?"}, {"type": "image"}]},
        {"role": "assistant", "content": "4"},
    ]
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Area?<|vision_start|><|image_pad|><|vision_end|>"
        "<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    begun = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert begun == expected.removesuffix("4<|im_end|>\n")


def test_a_picture_of_the_task_is_neither_resized_nor_blurred():
    major = int(transformers.__version__.split(".")[0])
    processor = AutoImageProcessor.from_pretrained(FOLDER, **({"backend": "pil"} if major >= 5 else {"use_fast": False}))
    features = processor(images=[draw(make_problem("train", 0))], return_tensors="pt")
    assert features["image_grid_thw"].tolist() == [[1, 4, 4]]
    # white is 0, black (0 - 1) / 0.35; nothing lies between
    values = features["pixel_values"].unique()
    torch.testing.assert_close(values, torch.tensor([-1 / 0.35, 0.0]))


def test_stock_auto_processor_loads_where_torchvision_does():
    """vLLM asks for it; its video processor needs torchvision."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no torchvision that fits: {error}")
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    assert type(processor) is transformers.Qwen2_5_VLProcessor
    assert processor.video_processor is not None
    assert processor.chat_template == processor.tokenizer.chat_template
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    encoded = processor(text=[text], images=[draw(make_problem("train", 0))], return_tensors="pt")
    assert encoded["input_ids"].shape == (1, 6)


def test_the_facts_beside_the_weights_are_json_without_a_machines_paths():
    facts = json.loads((FOLDER / "warm_start.json").read_text())
    assert set(facts) == {"command", "recipe", "parameters", "sha256", "versions", "environment"}
    assert "/" not in json.dumps(facts)
