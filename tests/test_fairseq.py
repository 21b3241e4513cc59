"""Released checkpoints: written here with fairseq's names by hand, they load, or name the wrong key."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_classifier import TINY, examples
from torch import Tensor

from speechrl.policies.classifier import Classifier, load
from speechrl.policies.fairseq import load_released


def released(policy: Classifier) -> dict[str, Tensor]:
    """The state that fairseq's own model would have, put together module by module."""
    encoder, state = policy.encoder, {}

    def put(name: str, module: Any) -> None:
        state[f"m_ssl.model.{name}.weight"] = module.weight
        if module.bias is not None:
            state[f"m_ssl.model.{name}.bias"] = module.bias

    layered = encoder.config.feat_extract_norm == "layer"
    for i, layer in enumerate(encoder.feature_extractor.conv_layers):
        put(f"feature_extractor.conv_layers.{i}.0", layer.conv)
        if layered or i == 0:
            put(f"feature_extractor.conv_layers.{i}.2" + (".1" if layered else ""), layer.layer_norm)
    put("layer_norm", encoder.feature_projection.layer_norm)
    put("post_extract_proj", encoder.feature_projection.projection)
    position = encoder.encoder.pos_conv_embed.conv
    magnitude = torch.linalg.vector_norm(position.weight, dim=(0, 1), keepdim=True)
    state["m_ssl.model.encoder.pos_conv.0.weight_g"] = magnitude
    state["m_ssl.model.encoder.pos_conv.0.weight_v"] = position.weight / magnitude * 3  # only its direction counts
    state["m_ssl.model.encoder.pos_conv.0.bias"] = position.bias
    for i, block in enumerate(encoder.encoder.layers):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            put(f"encoder.layers.{i}.self_attn.{name}", block.attention.get_submodule(name))
        put(f"encoder.layers.{i}.self_attn_layer_norm", block.layer_norm)
        put(f"encoder.layers.{i}.fc1", block.feed_forward.intermediate_dense)
        put(f"encoder.layers.{i}.fc2", block.feed_forward.output_dense)
        put(f"encoder.layers.{i}.final_layer_norm", block.final_layer_norm)
    put("encoder.layer_norm", encoder.encoder.layer_norm)
    state |= {"proj_fc.weight": policy.head.weight, "proj_fc.bias": policy.head.bias}
    for name in ("mask_emb", "quantizer.vars", "quantizer.weight_proj.weight", "project_q.bias", "final_proj.weight"):
        state[f"m_ssl.model.{name}"] = torch.zeros(3)
    return {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}


@pytest.fixture
def source() -> Classifier:
    """A detector none of whose tensors is as it was initialised, so that each must really be copied."""
    policy = load(config=TINY["layer"], seed=1).eval()
    with torch.no_grad():
        for tensor in policy.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    return policy


@pytest.mark.parametrize("kind", ["layer", "group", "hubert"])
@pytest.mark.parametrize("form", ["ckpt", "pt", "safetensors"])
def test_identical_scores(kind: str, form: str, tmp_path: Path) -> None:
    policy = load(config=TINY[kind], seed=1).eval()
    path = tmp_path / f"tiny.{form}"
    if form == "safetensors":
        save_file(released(policy), path)
    else:
        torch.save(released(policy) if form == "ckpt" else {"model": released(policy)}, path)
    other = load(weights=str(path), config=TINY[kind], seed=2).eval()
    with torch.no_grad():
        difference = other.logits(examples()) - policy.logits(examples())
        fresh = load(config=TINY[kind], seed=2).eval().logits(examples()) - policy.logits(examples())
    assert float(difference.abs().max()) < 1e-5 < float(fresh.abs().max())


def test_every_tensor_is_copied(source: Classifier, tmp_path: Path) -> None:
    torch.save(released(source), tmp_path / "tiny.ckpt")
    other = load(config=TINY["layer"], seed=2)
    load_released(other, tmp_path / "tiny.ckpt")
    for name, tensor in source.named_parameters():
        copied = other.get_parameter(name)
        if name.endswith("original1"):  # only its direction counts
            taps = {"dim": (0, 1), "keepdim": True}
            copied, tensor = copied / copied.norm(**taps), tensor / tensor.norm(**taps)
        assert torch.allclose(copied, tensor, atol=1e-6), name


def test_the_first_logit_is_fake(source: Classifier, tmp_path: Path) -> None:
    state = released(source)
    state["proj_fc.weight"] = torch.zeros_like(state["proj_fc.weight"])
    state["proj_fc.bias"] = torch.tensor([5.0, -5.0])
    torch.save(state, tmp_path / "tiny.ckpt")
    policy = load(weights=str(tmp_path / "tiny.ckpt"), config=TINY["layer"])
    fake, real = policy.label_logps(examples(), ["fake", "real"]).exp().mean(0).tolist()
    assert fake > 0.99 and real < 0.01
    with pytest.raises(ValueError, match="fake and real, in this order"):
        load(weights=str(tmp_path / "tiny.ckpt"), config=TINY["layer"], labels=("real", "fake"))


FC1 = "m_ssl.model.encoder.layers.1.fc1.weight"


@pytest.mark.parametrize(
    "change, named",
    [
        ({FC1: None}, f"lacks: {FC1}"),
        ({"proj_fc.bias": None}, "lacks: proj_fc.bias"),
        ({"m_ssl.model.encoder.pos_conv.0.weight_g": None}, "lacks: m_ssl.model.encoder.pos_conv.0.weight_g"),
        ({FC1: torch.zeros(2, 2)}, rf"{FC1} is \[2, 2\], should be \[48, 32\]"),
        ({"proj_fc.weight": torch.zeros(3, 32)}, r"proj_fc.weight is \[3, 32\], should be \[2, 32\]"),
        ({FC1.replace("1", "2"): torch.zeros(2)}, "no place in it: m_ssl.model.encoder.layers.2.fc2.weight"),
        ({"m_ssl.model.adapter.weight": torch.zeros(2)}, "no place in it: m_ssl.model.adapter.weight"),
        ({"m_ssl.model.encoder.layers.0.quantizer.w": torch.zeros(2)}, "no place in it: .*layers.0.quantizer.w"),
        ({"backend.weight": torch.zeros(2)}, "no place in it: backend.weight"),
        ({"proj_fc.bias": "text"}, "'proj_fc.bias' is a str"),
    ],
)
def test_a_fault_names_its_key(source: Classifier, tmp_path: Path, change: dict, named: str) -> None:
    state = {key: value for key, value in (released(source) | change).items() if value is not None}
    torch.save(state, tmp_path / "tiny.ckpt")
    policy = load(config=TINY["layer"], seed=2)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    with pytest.raises(ValueError, match=named) as caught:
        load_released(policy, tmp_path / "tiny.ckpt")
    assert "tiny.ckpt" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items()), "half loaded"


def test_the_wrong_architecture_is_refused(source: Classifier, tmp_path: Path) -> None:
    torch.save(released(source), tmp_path / "tiny.ckpt")
    with pytest.raises(
        ValueError, match=r"conv_layers\.0\.2\.1\.bias.* and \d+ more.*lacks: .*conv_layers\.0\.2\.bias"
    ):
        load(weights=str(tmp_path / "tiny.ckpt"), config=TINY["group"])


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, ("sprung", "w")


def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Classifier) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(released(source) | {"cfg": Trap()}, "tiny.ckpt")
    Path("other.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("tiny.ckpt", "other.pt"):
        with pytest.raises(ValueError, match=f"{name}: .*code in a checkpoint is never run"):
            load(weights=name, config=TINY["layer"])
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("missing.ckpt", None, "no such checkpoint file"),
        ("cut.ckpt", b"PK\x03\x04 not all of it", "damaged"),
        ("empty.pt", b"", "damaged"),
        ("cut.safetensors", b"\x10\x00", "damaged"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: .*{said}"):
        load(weights=str(tmp_path / name), config=TINY["layer"])
