"""The speech language model against plain transformers, one example at a time, and against the policy contract."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import policy_contract
import pytest
import tiny_models
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from speechrl.policies import decoding as decoding_module
from speechrl.policies import speech_lm
from speechrl.policies.qwen2_audio import Qwen2Audio
from speechrl.policies.speech_lm import SpeechLM, load
from speechrl.types import GREEDY, SAMPLE_RATE, Actions, Decoding, Example, generator

LORA = {"rank": 4, "alpha": 8}


def policy(**options: Any) -> SpeechLM:
    """A tiny one whose answers end: the head's row for the end of the turn points where the hidden states do."""
    built = tiny_models.qwen2_audio(**options)
    with torch.no_grad():
        built.network.lm_head.weight[built.spec.eos(built.tokenizer)[0]] *= 3.0
        for name, tensor in built.named_parameters():
            if "lora_B" in name:  # zero at first, so that the adapter would do nothing
                tensor.normal_(0, 0.1, generator=generator(name))
    return built


def answers(examples: int = 3, group: int = 4) -> Actions:
    """Rows of 1 to 12 printable tokens."""
    ids = torch.randint(0, 256, (examples * group, 12), generator=generator("answers"))
    lengths = torch.randint(1, 13, (examples * group,), generator=generator("lengths"))
    return Actions(ids, torch.arange(12) < lengths[:, None])


def plain_inputs(subject: SpeechLM, example: Example) -> dict[str, Tensor]:
    """What transformers' own processor makes of the example, padded to the whole window."""
    processor = Qwen2AudioProcessor(feature_extractor=subject.extractor, tokenizer=subject.tokenizer)
    before, mark, after = example.prompt.partition("<audio>")
    content = [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": (after if mark else before).lstrip()}]
    if mark and before:
        content.insert(0, {"type": "text", "text": before})
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=text, audio=[example.waveform.numpy()], sampling_rate=SAMPLE_RATE, return_tensors="pt")


def plain_logps(
    network: torch.nn.Module, subject: SpeechLM, example: Example, ids: Tensor, temperature: float = 1.0
) -> Tensor:
    """The log-probabilities of one answer by the model's own forward pass."""
    inputs = dict(plain_inputs(subject, example))
    prefix = inputs.pop("input_ids")
    inputs["attention_mask"] = torch.ones(1, prefix.shape[1] + len(ids), dtype=torch.long)
    logits = network(input_ids=torch.cat([prefix, ids[None]], 1), **inputs).logits
    scores = (logits[0, prefix.shape[1] - 1 : -1] / temperature).log_softmax(-1)
    return scores.gather(1, ids[:, None])[:, 0]


def plain_rows(network: torch.nn.Module, subject: SpeechLM, rows: Actions, temperature: float = 1.0) -> Tensor:
    """The same for all rows of the three examples, one after the other."""
    found = []
    for row, example in enumerate(e for e in tiny_models.examples() for _ in range(len(rows) // 3)):
        own = plain_logps(network, subject, example, rows.ids[row][rows.mask[row]], temperature)
        found.append(torch.cat([own, own.new_zeros(rows.ids.shape[1] - len(own))]))
    return torch.stack(found)


@pytest.mark.parametrize("check", policy_contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("options", [{}, {"lora": LORA}], ids=["full", "lora"])
def test_contract(check: Any, options: dict[str, Any]) -> None:
    check(policy(**options), tiny_models.examples())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_scores_and_gradients_are_those_of_plain_transformers(checkpointing: bool, lora: dict | None) -> None:
    subject = policy(gradient_checkpointing=checkpointing, lora=lora).train()
    rows, trained = answers(), list(subject.trained_state().values())
    weights = torch.randn(rows.ids.shape, generator=generator("weights"))
    for temperature in (1.0, 0.7):
        found = subject.logps(tiny_models.examples(), rows, temperature)
        plain = plain_rows(subject.network, subject, rows, temperature)
        policy_contract.close(found, plain)
    gradients = torch.autograd.grad((found * weights).sum(), trained)
    for mine, theirs in zip(gradients, torch.autograd.grad((plain * weights).sum(), trained), strict=True):
        assert float((mine - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


def test_greedy_answers_are_those_of_generate() -> None:
    subject, ended = policy(), 0
    rollout = subject.sample(tiny_models.examples(), 1, replace(GREEDY, max_tokens=20), generator(0))
    ends = subject.spec.eos(subject.tokenizer)
    for row, example in enumerate(tiny_models.examples()):
        inputs = plain_inputs(subject, example)
        flags = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}
        ids = subject.network.generate(
            **inputs, **flags, max_new_tokens=20, eos_token_id=list(ends), pad_token_id=ends[0]
        )[0, inputs["input_ids"].shape[1] :]
        assert rollout.actions.ids[row][rollout.actions.mask[row]].tolist() == ids.tolist()
        ended += int(ids[-1] in ends)
        assert rollout.answers[row].ended == (int(ids[-1]) in ends)
    assert 0 < ended < 3, "the test should see answers that end and answers that are cut"


def test_dropping_ended_answers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, settings = policy(), Decoding(max_tokens=40, temperature=1.2)
    narrowed = subject.sample(tiny_models.examples(), 8, settings, generator(5))
    lengths = narrowed.actions.mask.sum(1)
    assert lengths.min() <= 5 and lengths.max() > 20, "the test should see short and long answers"
    monkeypatch.setattr(decoding_module._Slots, "narrow", lambda self, live: bool(live.any()))
    whole = subject.sample(tiny_models.examples(), 8, settings, generator(5))
    assert torch.equal(whole.actions.ids, narrowed.actions.ids)
    assert policy_contract.texts(whole) == policy_contract.texts(narrowed)
    policy_contract.close(whole.logps, narrowed.logps)


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (5, 1.0), (0, 0.7), (8, 0.6)])
def test_tokens_are_drawn_as_often_as_they_should_be(top_k: int, top_p: float) -> None:
    logits = torch.randn(1, 20, generator=generator("logits")) * 2
    warpers = LogitsProcessorList([TopKLogitsWarper(top_k or 20)] + [TopPLogitsWarper(top_p)])
    wanted = warpers(None, logits / 0.8).softmax(-1)[0]
    settings = Decoding(temperature=0.8, top_k=top_k, top_p=top_p)
    chance = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    tokens, logps = decoding_module.choose(logits.expand(100_000, -1), chance, settings)
    found = tokens.bincount(minlength=20) / 100_000
    assert float((found - wanted).abs().max()) < 1e-4 and not found[wanted == 0].any()
    policy_contract.close(logps, (logits[0] / 0.8).log_softmax(-1)[tokens])


def test_answers_are_read_back_as_they_were_written() -> None:
    subject = policy()
    texts = ["Car", "", "zwölf <answer>größere</answer>\nHunde ", "<|im_end|> as text"]
    rows = subject.encode(texts)
    assert [answer.text for answer in subject.decode(rows)] == texts
    assert all(answer.ended for answer in subject.decode(rows))
    cut = Actions(rows.ids[:, :2], rows.mask[:, :2])
    assert [answer.ended for answer in subject.decode(cut)] == [False, True, False, False]
    with_end = rows.ids[0, :4].tolist()
    assert with_end[-1] == subject.spec.eos(subject.tokenizer)[0], "the end of the turn is an action"


@pytest.mark.parametrize("seconds", [0.1, 0.1234, 10, 29.99, 30, 35])
def test_one_audio_token_for_each_feature(seconds: float) -> None:
    subject = tiny_models.qwen2_audio(config=tiny_models.config(seconds=30, width=16))
    example = Example(id="clip-7", waveform=torch.randn(int(seconds * SAMPLE_RATE)) * 0.1, prompt="What?")
    plain = plain_inputs(subject, example)
    with pytest.warns(UserWarning, match="clip-7") if seconds > 30 else nothing():
        embeddings, lengths = subject._prefix([example])
    features, counts = subject.spec.hear(subject.network, subject.extractor, [example.waveform])
    ids = subject.spec.prompt_ids(subject.tokenizer, "What?", features.shape[1])
    assert plain["input_ids"][0].tolist() == ids and counts.tolist() == [features.shape[1]]
    assert lengths.tolist() == [len(ids)] == [embeddings.shape[1]]
    assert subject.cut == ({"clip-7"} if seconds > 30 else set())


class nothing:  # noqa: N801
    """A context that does nothing."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_bad_examples_are_named() -> None:
    subject, good = policy(), tiny_models.examples()[0]
    for bad, words in [
        (replace(good, waveform=good.waveform[:1500]), "0.094 s"),
        (replace(good, prompt="<audio> or <audio>?"), "one <audio> mark"),
        (replace(good, prompt="<|AUDIO|>?"), "no <|AUDIO|>"),
    ]:
        with pytest.raises(ValueError, match="clip-0") as error:
            subject.logps([bad], answers(1))
        assert words in str(error.value)


def test_logits_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, rows = policy(), answers()
    trained = list(subject.trained_state().values())
    whole = subject.logps(tiny_models.examples(), rows)
    gradients = torch.autograd.grad(whole.sum(), trained)
    monkeypatch.setattr(speech_lm, "SCORES_AT_ONCE", 7 * subject.network.lm_head.out_features)
    parts = subject.logps(tiny_models.examples(), rows)
    policy_contract.close(parts, whole, 1e-6)
    for mine, theirs in zip(torch.autograd.grad(parts.sum(), trained), gradients, strict=True):
        assert float((mine - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_only_what_should_be_trained_is() -> None:
    names = {name for name, _ in policy().named_parameters()}
    assert names - set(policy().trained_state()) == {"network.model.audio_tower.embed_positions.weight"}
    frozen = policy(freeze=["encoder", "projector"]).train()
    assert all("language_model" in name or "lm_head" in name for name in frozen.trained_state())
    assert frozen.network.model.language_model.training and not frozen.network.model.audio_tower.training
    adapted = policy(lora=LORA).trained_state()
    assert len(adapted) == 2 * 2 * 7 and all("language_model" in name and "lora" in name for name in adapted)
    with pytest.raises(ValueError, match="choose from encoder, projector"):
        policy(freeze=["ears"])


def test_a_model_needs_its_own_tokenizer_and_one_source(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    settings = {**tiny_models.config(), "audio_token_index": 5}
    with pytest.raises(ValueError, match="lacks <.AUDIO.>, which Qwen2Audio needs"):
        load(spec=Qwen2Audio(), config=settings, tokenizer=other)
    with pytest.raises(ValueError, match="either weights"):
        load(spec=Qwen2Audio(), weights=str(tmp_path), config=settings)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        load(spec=Qwen2Audio(), config=settings)


@pytest.mark.parametrize(
    "options, times", [({"lora": LORA}, 2), ({"freeze": ["encoder"]}, 5)], ids=["lora", "projector"]
)
def test_what_was_sampled_is_not_heard_again_by_fixed_ears(options: dict[str, Any], times: int) -> None:
    subject, examples, heard = policy(**options), tiny_models.examples(), []
    hear = subject.spec.hear
    subject.spec.hear = lambda *inputs: heard.append(1) or hear(*inputs)
    rows = subject.sample(examples, 2, Decoding(max_tokens=5), generator(0)).actions
    scores = subject.logps(examples, rows)
    for scorer in (subject, subject.frozen()):
        policy_contract.close(scorer.logps(examples[1:2], rows.rows(slice(2, 4))), scores[2:4])
    elsewhere = [replace(example, waveform=example.waveform.clone()) for example in examples]
    policy_contract.close(subject.logps(elsewhere, rows), scores)
    assert len(heard) == times


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_saved_weights_load_in_plain_transformers(tmp_path: Path, lora: dict | None) -> None:
    subject, rows = policy(lora=lora, freeze=["encoder"]), answers()
    before = subject.logps(tiny_models.examples(), rows).detach()
    subject.save_pretrained(str(tmp_path))
    network = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path)
    policy_contract.close(plain_rows(network, subject, rows).detach(), before)
    again = load(spec=Qwen2Audio(), weights=str(tmp_path))
    policy_contract.close(again.logps(tiny_models.examples(), rows).detach(), before)
    policy_contract.close(subject.logps(tiny_models.examples(), rows).detach(), before, 0.0)


def test_a_saved_adapter_loads_in_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    tiny_models.qwen2_audio().save_pretrained(str(tmp_path / "base"))
    subject, rows = load(spec=Qwen2Audio(), weights=str(tmp_path / "base"), lora=LORA), answers()
    base = subject.logps(tiny_models.examples(), rows).detach()
    with torch.no_grad():
        for tensor in subject.trained_state().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator("adapter")) * 0.1)
    before = subject.logps(tiny_models.examples(), rows).detach()
    policy_contract.differ(before, base)
    subject.save_pretrained(str(tmp_path / "adapter"), form="adapter")
    network = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path / "base")
    network = PeftModel.from_pretrained(network, tmp_path / "adapter").eval()
    policy_contract.close(plain_rows(network, subject, rows).detach(), before)
    with pytest.raises(ValueError, match="no adapter"):
        tiny_models.qwen2_audio().save_pretrained(str(tmp_path / "none"), form="adapter")


def test_a_base_is_known_by_its_weights(tmp_path: Path) -> None:
    base = tiny_models.qwen2_audio()
    base.save_pretrained(str(tmp_path))
    loaded = load(spec=Qwen2Audio(), weights=str(tmp_path), lora=LORA, dtype="bfloat16")
    assert base.base_identity == loaded.base_identity != tiny_models.qwen2_audio(seed=1).base_identity
    assert {tensor.dtype for tensor in loaded.trained_state().values()} == {torch.float32}


def test_half_precision_is_close(tmp_path: Path) -> None:
    subject, rows = policy(), answers()
    subject.save_pretrained(str(tmp_path))
    half = load(spec=Qwen2Audio(), weights=str(tmp_path), dtype="bfloat16")
    found, wanted = half.logps(tiny_models.examples(), rows), subject.logps(tiny_models.examples(), rows)
    assert found.dtype == torch.float32 and float((found - wanted).abs().mean()) < 0.1
    rollout = half.sample(tiny_models.examples(), 4, Decoding(max_tokens=20), generator(0))
    assert float((half.logps(tiny_models.examples(), rollout.actions) - rollout.logps).abs().mean()) < 0.1
