"""Records, images and prompts: what is trained on, and in which order."""

from gmpo_mm.data.dataset import OverlongPrompt, PromptDataset, PromptSampler
from gmpo_mm.data.images import ImageSource, load_image
from gmpo_mm.data.prompts import EncodedPrompt, build_prompt, load_format_prompt
from gmpo_mm.data.records import Record, RecordKeys, Records, check_records, data_fingerprint, load_records

__all__ = [
    "EncodedPrompt",
    "ImageSource",
    "OverlongPrompt",
    "PromptDataset",
    "PromptSampler",
    "Record",
    "RecordKeys",
    "Records",
    "build_prompt",
    "check_records",
    "data_fingerprint",
    "load_format_prompt",
    "load_image",
    "load_records",
]
