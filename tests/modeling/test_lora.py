"""Which modules an adapter trains, how it is kept, and on which base it is put back."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from cartas_mlflow.errors import BaseModelError, SettingError
from cartas_mlflow.files import DamagedFile, seal
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.modeling.lora import attach_adapter, count_parameters, load_adapter, save_adapter
from cartas_mlflow.settings import GenerationSettings, LoraSettings

ALL_LINEAR = LoraSettings(target_modules=("all-linear",), dropout=0)
PROMPTS = ["Interprete a carta O Louco na ocasião Ano Novo", "A Lua | Noivado | Luz | Amor", "O Sol"]


@pytest.fixture
def location(tiny_base: Path) -> BaseLocation:
    return BaseLocation("cartas-teste/t5-pequeno", tiny_base, "hub", "abc123")


@pytest.fixture
def saved_adapter(location: BaseLocation, tmp_path: Path) -> Path:
    """An adapter whose weights are not zero."""
    folder = tmp_path / "adapter"
    save_adapter(trained(location), load_tokenizer(location.folder), folder, location)
    return folder


def trained(location: BaseLocation):
    """An adapter that changes what the base says, as a training would leave it."""
    model = attach_adapter(load_base(location), ALL_LINEAR, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.3)
    return model


def ptt5_base() -> T5ForConditionalGeneration:
    """The architecture of unicamp-dl/ptt5-base-portuguese-vocab, without memory for its weights."""
    sizes = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072}
    with torch.device("meta"):
        return T5ForConditionalGeneration(T5Config(**sizes, num_layers=12, num_decoder_layers=12))


def ptt5_v2() -> T5ForConditionalGeneration:
    """T5 v1.1 as in the ptt5-v2 family: gated GELU, a head of its own."""
    with torch.device("meta"):
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=32128,
                d_model=768,
                d_kv=64,
                num_heads=12,
                d_ff=2048,
                num_layers=12,
                num_decoder_layers=12,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        )


def texts(model, tokenizer) -> list[str]:
    return generate_texts(model, tokenizer, PROMPTS, GenerationSettings(max_new_tokens=12), batch_size=8, max_length=64)


def adapted_modules(model) -> set[str]:
    return {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}


# What is trained


def test_the_default_settings_train_2_359_296_of_ptt5_base_s_parameters() -> None:
    base = ptt5_base()
    assert base.num_parameters() == 222_903_552
    count = count_parameters(attach_adapter(base, LoraSettings(), seed=42))
    assert (count.trainable, count.total) == (2_359_296, 225_262_848)
    assert str(count) == "trainable params: 2,359,296 || all params: 225,262,848 || trainable%: 1.0474"


def test_the_default_targets_are_the_self_attention_of_encoder_and_decoder() -> None:
    model = attach_adapter(ptt5_base(), LoraSettings(), seed=42)
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 96
    assert all(".SelfAttention." in name for name in adapted)


def test_the_default_targets_fit_t5_v1_1_too() -> None:
    assert count_parameters(attach_adapter(ptt5_v2(), LoraSettings(), seed=42)).trainable == 2_359_296


@pytest.mark.parametrize(
    ("base", "modules"),
    [(ptt5_base, {"q", "k", "v", "o", "wi", "wo"}), (ptt5_v2, {"q", "k", "v", "o", "wi_0", "wi_1", "wo"})],
)
def test_all_linear_takes_every_matrix_but_the_head_in_both_generations(base, modules: set[str]) -> None:
    assert adapted_modules(attach_adapter(base(), ALL_LINEAR, seed=42)) == modules


def test_targets_of_t5_v1_1_are_an_error_on_v1_0_and_the_nearest_is_named() -> None:
    with pytest.raises(SettingError) as caught:
        attach_adapter(ptt5_base(), LoraSettings(target_modules=("q", "v", "wi_0", "wi_1", "wo")), seed=42)
    assert str(caught.value) == (
        "lora.target_modules: wi_0 não é o final do nome de nenhum módulo linear deste modelo nem uma parte dele; "
        "o mais próximo é wi. Use all-linear, finais entre: k, o, q, v, wi, wo, ou partes entre: DenseReluDense, "
        "EncDecAttention, SelfAttention, decoder, encoder."
    )


@pytest.mark.parametrize("target", ["ncoder", "shared", "lm_head", "elfAttention.q", ""])
def test_a_target_that_is_no_linear_module_is_an_error(target: str) -> None:
    with pytest.raises(SettingError, match=r"não é o final do nome de nenhum módulo linear"):
        attach_adapter(ptt5_base(), LoraSettings(target_modules=("q", target)), seed=42)


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (("encoder",), 12 * 6),
        (("encoder", "EncDecAttention"), 12 * (6 + 4)),
        (("encoder", "encoder.block.0", "q"), 12 * 6 + 24),
        (("decoder.block.0",), 4 + 4 + 2),
        (("SelfAttention",), 24 * 4),
        (("decoder.block.11.layer.2.DenseReluDense.wo",), 1),
    ],
)
def test_a_part_means_every_matrix_in_it(targets: tuple[str, ...], adapted: int) -> None:
    model = attach_adapter(ptt5_base(), LoraSettings(target_modules=targets), seed=42)
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(names) == adapted
    assert all(f".{targets[0]}." in name for name in names[:1])


def test_an_adapter_of_parts_is_kept_and_put_back(location: BaseLocation, tmp_path: Path) -> None:
    parts = LoraSettings(target_modules=("encoder", "EncDecAttention"), dropout=0)
    model = attach_adapter(load_base(location), parts, seed=1)
    save_adapter(model, load_tokenizer(location.folder), tmp_path, location)
    again = load_adapter(load_base(location), tmp_path, location)
    ours, theirs = ({n: p for n, p in one.named_parameters() if "lora_" in n} for one in (model, again))
    assert ours.keys() == theirs.keys()
    assert not any("decoder" in name and "EncDecAttention" not in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_suffix_path_picks_out_one_kind_of_attention() -> None:
    model = attach_adapter(ptt5_base(), LoraSettings(target_modules=("EncDecAttention.q",)), seed=42)
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 12
    assert all("decoder" in name for name in adapted)


def test_the_seed_decides_the_initial_weights(location: BaseLocation) -> None:
    def initial(seed: int) -> torch.Tensor:
        model = attach_adapter(load_base(location), LoraSettings(), seed)
        return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if "lora_A" in name])

    assert torch.equal(initial(7), initial(7))
    assert not torch.equal(initial(7), initial(8))


def test_a_fresh_adapter_says_what_the_base_says(location: BaseLocation) -> None:
    tokenizer = load_tokenizer(location.folder)
    assert texts(attach_adapter(load_base(location), ALL_LINEAR, 1), tokenizer) == texts(load_base(location), tokenizer)


# How it is kept


def test_an_adapter_says_the_same_after_a_round_trip(location: BaseLocation, saved_adapter: Path) -> None:
    tokenizer = load_tokenizer(location.folder)
    before = texts(trained(location), tokenizer)
    assert before != texts(load_base(location), tokenizer)
    again = load_adapter(load_base(location), saved_adapter, location)
    assert texts(again, load_tokenizer(saved_adapter)) == before


def test_a_loaded_adapter_trains_only_when_asked_to(location: BaseLocation, saved_adapter: Path) -> None:
    assert count_parameters(load_adapter(load_base(location), saved_adapter, location)).trainable == 0
    resumed = load_adapter(load_base(location), saved_adapter, location, trainable=True)
    assert count_parameters(resumed).trainable == count_parameters(trained(location)).trainable


def test_what_is_saved_names_the_base_and_no_path_of_this_machine(location: BaseLocation, saved_adapter: Path) -> None:
    config = json.loads((saved_adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("cartas-teste/t5-pequeno", "abc123")
    assert config["target_modules"] == sorted(config["target_modules"])
    assert json.loads((saved_adapter / "base.json").read_text(encoding="utf-8")) == {
        "name": "cartas-teste/t5-pequeno",
        "revision": "abc123",
        "fingerprint": location.fingerprint(),
    }
    for file in saved_adapter.iterdir():
        if file.suffix in {".json", ".md"}:
            assert str(location.folder) not in file.read_text(encoding="utf-8"), file.name


def test_saved_files_are_readable_by_everyone_whatever_the_umask(location: BaseLocation, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        save_adapter(trained(location), load_tokenizer(location.folder), tmp_path / "a", location)
    finally:
        os.umask(mask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "base.json"} <= set(modes)
    assert set(modes.values()) == {0o644}


# On which base it is put back


def test_a_base_of_equal_shapes_but_other_weights_is_refused(
    location: BaseLocation, saved_adapter: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(location.folder, tmp_path / "outro")
    torch.manual_seed(99)
    T5ForConditionalGeneration(T5Config.from_pretrained(other)).save_pretrained(other)
    elsewhere = BaseLocation("outro/t5", other, "folder")
    with pytest.raises(
        BaseModelError, match=r"treinado sobre cartas-teste/t5-pequeno com outros pesos que os de outro/t5"
    ):
        load_adapter(load_base(elsewhere), saved_adapter, elsewhere)


def test_the_same_base_from_another_place_is_accepted(
    location: BaseLocation, saved_adapter: Path, tmp_path: Path
) -> None:
    moved = BaseLocation("copia", shutil.copytree(location.folder, tmp_path / "copia"), "folder")
    assert count_parameters(load_adapter(load_base(moved), saved_adapter, moved)).total > 0


def test_an_adapter_of_other_dimensions_is_refused(location: BaseLocation, saved_adapter: Path) -> None:
    config = saved_adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 4}))
    seal(saved_adapter)
    with pytest.raises(BaseModelError, match="não tem as dimensões do modelo base"):
        load_adapter(load_base(location), saved_adapter, location)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_lacks_a_part_is_no_adapter(location: BaseLocation, saved_adapter: Path, name: str) -> None:
    (saved_adapter / name).unlink()
    with pytest.raises(BaseModelError, match=rf"não tem {name}; indique a pasta adapter/"):
        load_adapter(load_base(location), saved_adapter, location)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "base.json"])
def test_an_adapter_cut_short_is_an_error(location: BaseLocation, saved_adapter: Path, name: str) -> None:
    (saved_adapter / name).write_bytes((saved_adapter / name).read_bytes()[:40])
    with pytest.raises(DamagedFile, match=rf"{name} está danificado \(.+\); copie a pasta adapter/ de novo"):
        load_adapter(load_base(location), saved_adapter, location)


def test_the_own_head_of_a_t5_v1_1_stays_its_own(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "v11", ignore=shutil.ignore_patterns("*.safetensors"))
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=1024,
            d_model=64,
            d_kv=16,
            num_heads=4,
            d_ff=128,
            num_layers=1,
            num_decoder_layers=1,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        )
    )
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    location = BaseLocation("v11", folder, "folder")
    adapted = attach_adapter(load_base(location), ALL_LINEAR, seed=1)
    assert torch.equal(adapted.get_base_model().lm_head.weight, model.lm_head.weight)
    assert not torch.equal(adapted.get_base_model().lm_head.weight, adapted.get_base_model().shared.weight)
    save_adapter(adapted, load_tokenizer(folder), tmp_path / "adapter", location)
    load_adapter(load_base(location), tmp_path / "adapter", location)
