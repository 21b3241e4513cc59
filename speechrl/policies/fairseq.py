"""Detectors as they were released: AntiDeepfake checkpoints with fairseq's key names, loaded key by key."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speechrl.policies.classifier import LABELS, Classifier

ENCODER, HEAD = "m_ssl.model.", "proj_fc."
"""What the released detectors call the encoder and the linear layer on top of it."""

PRE_TRAINING = tuple(ENCODER + name for name in ("quantizer.", "project_q.", "final_proj.", "label_embs_concat"))
"""Only self-supervised pre-training uses these, and a detector leaves them out."""

SHOWN = 5

_RENAMED = (
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0$", "encoder.pos_conv.0.weight_g"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1$", "encoder.pos_conv.0.weight_v"),
    (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
    (r"^encoder\.layers\.(\d+)\.attention\.", r"encoder.layers.\1.self_attn."),
    (r"^encoder\.layers\.(\d+)\.layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
    (r"^masked_spec_embed$", "mask_emb"),
)
"""transformers' names, and fairseq's for the same tensors; what is not here has the same name in both."""


def load_released(policy: Classifier, path: Path) -> None:
    """Copies a released checkpoint (.ckpt, .pt or .safetensors) into a detector on a wav2vec 2.0 or HuBERT encoder.

    Every tensor of the detector must be in the file in its shape, and every tensor of the file must have its place;
    the two rows of the released head are fake and real. Raises ValueError naming the keys that do not fit. Nothing
    in the file is executed.
    """
    if policy.labels != LABELS:
        raise ValueError(f"{path}: a released head scores {' and '.join(LABELS)}, in this order, not {policy.labels}")
    state = _read(path)
    own = policy.state_dict()
    layered = policy.encoder.config.feat_extract_norm == "layer"
    places = {_released_name(name, layered): tensor for name, tensor in own.items()}
    faults = [
        *_listed("keys that have no place in it", sorted(set(state) - set(places) - _left_out(state))),
        *_listed("keys that it needs and the file lacks", sorted(set(places) - set(state))),
        *_listed("shapes that differ", _misshapen(state, places)),
    ]
    if faults:
        raise ValueError(f"{path} does not fit the encoder that model.config describes: {'; '.join(faults)}")
    with torch.no_grad():
        for key, tensor in places.items():
            tensor.copy_(state[key])


def _released_name(name: str, layered: bool) -> str:
    """The released name of one of `Classifier`'s tensors."""
    if name.startswith("head."):
        return HEAD + name.removeprefix("head.")
    name = name.removeprefix("encoder.")
    # A layer norm stands between two transpositions there, so it is the second of three.
    norm = "2.1" if layered else "2"
    name = re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", rf"\g<1>.{norm}.", name)
    for pattern, replacement in _RENAMED:
        renamed = re.sub(pattern, replacement, name)
        if renamed != name:
            return ENCODER + renamed
    return ENCODER + name


def _left_out(state: Mapping[str, Tensor]) -> set[str]:
    """Known keys without a place: pre-training's own, and the embedding of masked frames, which are never masked."""
    return {key for key in state if key.startswith(PRE_TRAINING) or key == f"{ENCODER}mask_emb"}


def _misshapen(state: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key} is {list(state[key].shape)}, should be {list(tensor.shape)}"
        for key, tensor in places.items()
        if key in state and state[key].shape != tensor.shape
    ]


def _listed(what: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"{what}: {', '.join(found[:SHOWN])}{more}"]


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by key, from the top level or from under `model` or `state_dict`."""
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint file; the released ones are at zenodo.org/records/15580543")
    state: Any
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"{path}: either damaged or more than plain tensors, and code in a checkpoint is never run; save its state "
            f"dictionary as .safetensors where you trust it ({reason})"
        ) from error
    for name in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not tensors by name")
    strange = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise ValueError(f"{path}: {strange!r} is a {type(state[strange]).__name__}, not a tensor")
    return state
