"""Attach, count, save and load LoRA adapters."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import BaseModelError, SettingError, first_line
from cartas_mlflow.files import DamagedFile, OwnFile, check_seal, seal
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.loading import quiet_libraries
from cartas_mlflow.settings import LoraSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ALL_LINEAR = "all-linear"
BASE_FILE = "base.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
COPY_AGAIN = "copie a pasta adapter/ de novo do treinamento, ou treine outra vez"


class BaseIdentity(OwnFile):
    """``base.json``: the base that an adapter fits."""

    name: str
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of weights; 4-bit weights count as the weights they stand for."""

    trainable: int
    total: int

    @property
    def percentage(self) -> float:
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        return (
            f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {self.percentage:.4f}"
        )


def attach_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PeftModel:
    """Put a fresh LoRA adapter on the base, in place; the same seed gives the same initial weights.

    A target is the end of linear modules' names (``SelfAttention.q``), or a part that holds some (``encoder``,
    ``EncDecAttention``, ``decoder.block.0``).

    Raises:
        SettingError: a target that matches no linear module. (PEFT itself skips it in silence as long as another
            matches: the names of T5 v1.1 on a T5 v1.0 train nothing of the feed-forward.)
    """
    quiet_libraries()
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import set_seed

    targets = settings.target_modules
    modules = ALL_LINEAR if targets == (ALL_LINEAR,) else _find_modules(model, targets)
    set_seed(seed)
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        target_modules=modules,
    )
    return get_peft_model(model, config)


def detach_adapter(model: PeftModel) -> None:
    """Take the adapter off its base, which is then as it was loaded: the next one trains as in a new process."""
    model.activation_checkpointing_disable()
    base = model.unload()
    base.config.use_cache = True  # the trainer switches it off
    base.requires_grad_(False).eval()


def count_parameters(model: PeftModel) -> ParameterCount:
    """Trainable and total, adapter included."""
    return ParameterCount(*model.get_nb_trainable_parameters())


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: BaseLocation) -> None:
    """Write adapter_config.json, adapter_model.safetensors, the tokenizer and ``base.json`` (which base it fits)."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = folder / "adapter_config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    content["base_model_name_or_path"], content["revision"] = base.name, base.revision
    content["target_modules"] = sorted(content["target_modules"])
    config.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    BaseIdentity(name=base.name, revision=base.revision, fingerprint=base.fingerprint()).write(folder / BASE_FILE)
    (folder / "README.md").write_text(_adapter_card(base, content), encoding="utf-8")
    seal(folder)
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(0o644)  # safetensors writes 0600 whatever the umask: nobody else could serve it


def load_adapter(model: PreTrainedModel, folder: Path, base: BaseLocation, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on its base.

    Raises:
        BaseModelError: not an adapter, or one that was trained on another base.
        DamagedFile: one of its files is not what was written.
    """
    quiet_libraries()
    from peft import PeftModel
    from safetensors import SafetensorError

    for name in ADAPTER_FILES:
        if not (folder / name).exists():
            raise BaseModelError(f"{folder} não tem {name}; indique a pasta adapter/ de um treinamento.")
    check_seal(folder, COPY_AGAIN)
    identity = folder / BASE_FILE
    trained_on = BaseIdentity.read(identity, COPY_AGAIN) if identity.exists() else None
    if trained_on is not None and not base.has_fingerprint(trained_on.fingerprint):
        raise BaseModelError(
            f"O adaptador em {folder} foi treinado sobre {trained_on.name} com outros pesos que os de {base.name} em "
            "uso; use model.name e model.revision do treinamento."
        )
    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except RuntimeError as error:
        raise BaseModelError(
            f"O adaptador em {folder} não tem as dimensões do modelo base {base.name}; use o base do treinamento."
        ) from error
    except SafetensorError as error:
        raise DamagedFile(folder / ADAPTER_FILES[1], first_line(error), COPY_AGAIN) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what PEFT makes of another content
        raise DamagedFile(folder / ADAPTER_FILES[0], first_line(error), COPY_AGAIN) from error


def _find_modules(model: PreTrainedModel, targets: tuple[str, ...]) -> list[str]:
    from torch import nn

    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    found: dict[str, None] = {}
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in names):
            found[target] = None
        elif within := [name for name in names if f".{target}." in f".{name}"]:
            found |= dict.fromkeys(within)
        else:
            raise SettingError(_no_such_module(target, names))
    return list(found)


def _no_such_module(target: str, names: list[str]) -> str:
    paths = [name.split(".") for name in names]
    endings = sorted({ending for path in paths for ending in (path[-1], ".".join(path[-2:]))})
    parts = sorted({path[0] for path in paths} | {path[-2] for path in paths})
    near = difflib.get_close_matches(target, endings + parts, n=1, cutoff=0.5)
    return (
        f"lora.target_modules: {target} não é o final do nome de nenhum módulo linear deste modelo nem uma parte dele; "
        + (f"o mais próximo é {near[0]}. " if near else "")
        + f"Use {ALL_LINEAR}, finais entre: {', '.join(sorted({path[-1] for path in paths}))}, ou partes entre: "
        + f"{', '.join(parts)}."
    )


def _adapter_card(base: BaseLocation, config: dict) -> str:
    return (
        f"---\nbase_model: {base.name}\nlibrary_name: peft\nlanguage: pt\ntags: [lora, t5]\n---\n\n"
        f"# Adaptador LoRA de leituras de cartas\n\nTreinado com cartas-mlflow sobre `{base.name}`"
        + (f" (revisão `{base.revision}`)" if base.revision else "")
        + f": r={config['r']}, alpha={config['lora_alpha']}, dropout={config['lora_dropout']}. "
        "`base.json` guarda a impressão digital dos pesos do modelo base com que ele funciona.\n"
    )
