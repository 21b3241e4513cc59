"""LoRA in, weights out: adapting a network, telling one base from another, and saving what others can load."""

import hashlib
import os
from typing import Any, Literal

import torch
from torch import Tensor

PROBES = 64
"""Entries of each tensor that tell one base from another."""


def identity(network: Any) -> str:
    """A fingerprint of a network's weights, the same wherever they were loaded from.

    It reads a few entries of every tensor, rounded to bfloat16, so that it does not depend on the precision that the
    weights were loaded in.
    """
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in network.named_parameters():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().flatten()
        probe = flat[:: max(flat.numel() // PROBES, 1)][:PROBES].to(torch.bfloat16).contiguous()
        digest.update(probe.cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapt(network: Any, targets: str, *, rank: int = 16, alpha: int = 32, dropout: float = 0.0, seed: int = 0) -> None:
    """Puts LoRA layers into the linear layers that match; nothing else is trained from then on."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    inject_adapter_in_model(settings, network)
    for tensor in network.parameters():
        if tensor.requires_grad:
            tensor.data = tensor.data.float()


def merged(network: Any) -> dict[str, Tensor]:
    """The weights with LoRA added in, under the base's names; the network is left as it is."""
    from peft.tuners.lora import LoraLayer

    state = network.state_dict()
    layers: list[tuple[str, Any]] = [(n, m) for n, m in network.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in layers:
        weight = state[f"{name}.base_layer.weight"]
        delta = layer.get_delta_weight("default").detach()
        state[f"{name}.base_layer.weight"] = (weight.to(delta.dtype) + delta).to(weight.dtype)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def save(network: Any, folder: str, form: Literal["whole", "adapter"]) -> None:
    """Weights that plain transformers loads (`whole`), or that peft loads onto the base (`adapter`).

    Raises ValueError if there is no adapter to save.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    if form == "whole":
        network.save_pretrained(folder, state_dict=merged(network))
        return
    settings = network.__dict__.get("peft_config", {}).get("default")
    if settings is None:
        raise ValueError(f"{folder}: this model was not trained with LoRA, so there is no adapter to save")
    os.makedirs(folder, exist_ok=True)
    state = get_peft_model_state_dict(network, adapter_name="default")
    settings.save_pretrained(folder)
    path = os.path.join(folder, "adapter_model.safetensors")
    save_file({f"base_model.model.{k}": v.contiguous().cpu() for k, v in state.items()}, path + ".tmp")
    os.replace(path + ".tmp", path)
