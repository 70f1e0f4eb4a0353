"""The shipped folder, and problems of the bundled task as the prompts that training and sampling see."""

from pathlib import Path

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.processing import Processor
from gmpo_mm.toys.synthetic_geometry import Problem, draw

FOLDER = Path(__file__).parents[2] / "gmpo_mm" / "toys" / "bundled" / "qwen2_5_vl_tiny"


def encode(problem: Problem, processor: Processor) -> EncodedPrompt:
    content = [{"type": "image"}, {"type": "text", "text": problem.text.removeprefix("<image>")}]
    text = processor.chat_text([{"role": "user", "content": content}])
    record = Record(problem.text, (), problem.answer, (problem.answer,), problem.id)
    ids, unexpanded, pixel_values, grid = processor.encode(text, [draw(problem)])
    return EncodedPrompt(record, text, ids, unexpanded, (draw(problem),), pixel_values, grid)
