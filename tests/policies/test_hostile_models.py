"""Folders of others that pretend to be language models: nothing is run, asked or fetched, and the error is typed."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from carm_env.chat_models.interface import ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

CODE = "open({marker!r}, 'w').write('run')\nclass Own: pass\nclass OwnConfig: model_type = 'own'\n"


@pytest.fixture(scope="module")
def model_folder_of_ours(tmp_path_factory):
    from policies.embedded_vlm import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("model") / "tiny"
    model, processor = build_model(build_tokenizer(["LEFT SMALL"], 300), architecture="tiny", hidden=64, layers=1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def attempts(monkeypatch):
    """Names of what a model may not do, as it tries to."""
    found = []

    def refuse(what):
        def refused(*arguments, **options):
            found.append(what)
            raise OSError(f"{what} is refused in this test")

        return refused

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse(f"socket.{name}"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse("getaddrinfo"))
    monkeypatch.setattr("builtins.input", refuse("input"))
    # Not offline: the guard above, and not a setting of the hub's client, must find that nothing is asked.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return found


def change(folder, name, **values):
    path = folder / name
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key, value in values.items():
        target = config
        *parts, last = key.split("__")
        for part in parts:
            target = target.setdefault(part, {})
        target[last] = value
    path.write_text(json.dumps(config), encoding="utf-8")


def write_code(folder):
    (folder / "own.py").write_text(CODE.format(marker=str(folder.parent / "marker")), encoding="utf-8")


def own_class(folder, file, **names):
    write_code(folder)
    change(folder, file, auto_map=names)


def config_with_code(folder):
    own_class(folder, "config.json", AutoConfig="own.OwnConfig", AutoModelForImageTextToText="own.Own")
    change(folder, "config.json", model_type="own")


def config_with_code_on_the_hub(folder):
    names = {"AutoConfig": "evil/repo--own.OwnConfig", "AutoModelForImageTextToText": "evil/repo--own.Own"}
    change(folder, "config.json", model_type="own", auto_map=names)


def processor_with_code(folder):
    for file in ("processor_config.json", "tokenizer_config.json"):
        own_class(folder, file, AutoProcessor="own.Own")
        change(folder, file, processor_class="Own")


def tokenizer_with_code(folder):
    own_class(folder, "tokenizer_config.json", AutoTokenizer=["own.Own", "own.Own"])
    change(folder, "tokenizer_config.json", tokenizer_class="Own")


def write_pickle(path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (path.parents[1] / "marker",)

    torch.save({"weight": Payload()}, path)


def pickled_weights(folder):
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin")


def adapter(folder, **values):
    base = folder.parent / "base"
    folder.rename(base)
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    settings = {"base_model_name_or_path": str(base), "peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **values}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def pickled_adapter(folder):
    adapter(folder)
    write_pickle(folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def nan_weights(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.is_floating_point() and value.numel() > 1)
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def missing_weight(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("q_proj.weight"))]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def weights_outside(folder):
    index = {"metadata": {}, "weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def setting(file, **values):
    return lambda folder: change(folder, file, **values)


def text(file, content):
    return lambda folder: (folder / file).write_text(content, encoding="utf-8")


TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}", "{{ 'a' * 10**7 }}", "{{ '%010000000000d' % 1 }}", "{{ [1] * 10**10 }}",
    "{% set n = namespace(s='aaaaaaaaaaaaaaaa') %}{% for a in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ cycler.__init__.__globals__.os.system('touch marker') }}",
    "{% include '/etc/passwd' %}", "{{ f(", "{{ 1 / 0 }}",
)  # fmt: skip


def template(folder, text):
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    for name in ("tokenizer_config.json", "processor_config.json"):
        change(folder, name, chat_template=text)


HOSTILE = {
    "configuration with code": config_with_code,
    "configuration with code on the hub": config_with_code_on_the_hub,
    "processor with code": processor_with_code,
    "pickled weights": pickled_weights,
    "pickled adapter": pickled_adapter,
    "adapter of a model on the hub": lambda folder: adapter(folder, base_model_name_or_path="evil/base"),
    "adapter of a list": lambda folder: adapter(folder, base_model_name_or_path=["a"]),
    "adapter that imports a module": lambda folder: adapter(folder, megatron_config={"a": 1}, megatron_core="own"),
    "adapter that compiles code": lambda folder: adapter(folder, peft_type="BOFT"),
    "adapter with an endless pattern": lambda folder: adapter(folder, target_modules="(q*)*(_*)*x"),
    "adapter of huge rank": lambda folder: adapter(folder, r=10**9),
    "adapter without base": lambda folder: adapter(folder, base_model_name_or_path=None),
    "NaN": nan_weights,
    "missing weight": missing_weight,
    "weights outside": weights_outside,
    "kernel on the hub": setting("config.json", _attn_implementation="evil/kernel"),
    "kernel of a part on the hub": setting("config.json", text_config__attn_implementation="evil/kernel"),
    "backbone on the hub": setting("config.json", vision_config__backbone="evil/backbone"),
    "audio tokenizer on the hub": setting("processor_config.json", audio_tokenizer={
        "audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "evil/dac"}),
    "a billion layers": setting("config.json", text_config__num_hidden_layers=10**9),
    "a billion pixels": setting("config.json", vision_config__image_size=10**9),
    "a terabyte of words": setting("config.json", text_config__vocab_size=10**12),
    "a gigabyte of words": setting("config.json", text_config__vocab_size=2 * 10**6),
    "negative width": setting("config.json", text_config__hidden_size=-4),
    "text for a width": setting("config.json", text_config__hidden_size="wide"),
    "deep configuration": text("config.json", '{"a":' * 10_000 + "1" + "}" * 10_000),
    "list for a configuration": text("config.json", "[]"),
    "long number": text("config.json", '{"model_type": ' + "9" * 4000 + "}"),
    "processor of images of a billion pixels": setting("processor_config.json", image_processor__size={
        "height": 10**9, "width": 10**9}),
    "deep tokenizer": text("tokenizer.json", '{"a":' * 10_000 + "1" + "}" * 10_000),
    "long chat template": text("chat_template.jinja", "x" * (1 << 20)),
    **{f"chat template {text}": (lambda folder, text=text: template(folder, text)) for text in TEMPLATES[:2]},
    "settings of another style": text("carm.json", '{"style": "../../x"}'),
    "settings with aliases": text("carm.json", "{" * 1000),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_folder_is_refused(model_folder_of_ours, tmp_path, attempts, kind):
    from carm_env.system.errors import CArmEnvError
    from policies.local_model import LocalModel

    folder = tmp_path / "model"
    shutil.copytree(model_folder_of_ours, folder)
    HOSTILE[kind](folder)
    with pytest.raises(CArmEnvError) as caught:
        LocalModel(folder)
    assert not attempts and not (tmp_path / "marker").exists()
    assert "trust_remote_code=True" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_model_loads_without_the_network(model_folder_of_ours, attempts, monkeypatch):
    from policies.local_model import LocalModel

    LocalModel(str(model_folder_of_ours))
    assert not attempts


def test_code_beside_a_model_that_needs_none_is_not_run(model_folder_of_ours, tmp_path, attempts):
    from policies.local_model import LocalModel

    folder = tmp_path / "model"
    shutil.copytree(model_folder_of_ours, folder)
    own_class(folder, "config.json", AutoModelForImageTextToText="own.Own")
    own_class(folder, "processor_config.json", AutoProcessor="own.Own")
    tokenizer_with_code(folder)
    LocalModel(folder)
    assert not attempts and not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/sftt", "there is no folder runs/sftt. Did you mean runs/sft?"),
        ("checkpoints/best", "there is no folder checkpoints/best"),
        ("mine/a", "there is no folder mine/a"),
        ("./a/b", "there is no folder ./a/b"),
        ("a/b/c", "there is no folder a/b/c"),
        ("/nowhere/a", "there is no folder /nowhere/a"),
        ("gemma", "there is no folder gemma"),
        ("google/gemma 3", "there is no folder google/gemma 3"),
        ("../google/gemma", "there is no folder ../google/gemma"),
        ("a.txt", "a.txt is a file"),
        ("hub:gemma", "expected hub:OWNER/MODEL"),
        ("hub:a/b/../c", "expected hub:OWNER/MODEL"),
    ],
)
def test_a_mistyped_folder_is_not_asked_of_the_hub(tmp_path, attempts, monkeypatch, name, message):
    from policies.model_folders import model_folder

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        model_folder(name)
    assert message in str(caught.value) and not attempts


@pytest.mark.parametrize("name", ["no-owner-of-this/model", "hub:runs/sft"])
def test_a_model_of_the_hub_is_announced_and_its_absence_explained(tmp_path, attempts, monkeypatch, capsys, name):
    from policies import model_folders

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    model_folders._hub_folder.cache_clear()
    with pytest.raises(ModelError, match=f"hf download {name.removeprefix('hub:')}"):
        model_folders.model_folder(name)
    assert attempts and len(attempts) <= 4
    announced = f"fetching model {name.removeprefix('hub:')} from the Hugging Face Hub"
    assert capsys.readouterr().err.count(announced) == 1


def test_the_wait_for_the_hub_is_bounded(tmp_path, monkeypatch, capsys):
    import threading
    import time

    from policies import model_folders

    never = threading.Event()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **b: never.wait(30))
    monkeypatch.setattr(model_folders, "_ANSWER_S", 0.2)
    started = time.perf_counter()
    with pytest.raises(ModelError, match="no answer within 0.2 seconds"):
        model_folders.model_folder("owner-of-nothing/slow")
    never.set()
    assert time.perf_counter() - started < 5


def test_a_chat_model_of_the_hub_is_not_fetched_twice(tmp_path, monkeypatch, capsys):
    from policies import model_folders

    calls = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **b: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **b: calls.append(b) or str(tmp_path))
    model_folders._hub_folder.cache_clear()
    for _ in range(3):
        assert model_folders.model_folder("owner-of-nothing/known") == tmp_path
    model_folders._hub_folder.cache_clear()
    assert len(calls) == 1 and not any(pattern.endswith((".py", ".bin")) for pattern in calls[0]["allow_patterns"])


@pytest.mark.parametrize(
    "changes",
    [
        {"eos_token_id": ["x"]}, {"bos_token_id": "x" * 5000}, {"output_hidden_states": "../x"}, {"eos_token_id": [{}]},
        {"eos_token_id": [None]},
    ],
)  # fmt: skip
def test_a_model_that_fails_when_it_answers_is_a_typed_error(model_folder_of_ours, tmp_path, changes):
    import numpy as np

    from carm_env.language.chat import question
    from policies.local_model import LocalModel

    folder = tmp_path / "model"
    shutil.copytree(model_folder_of_ours, folder)
    change(folder, "generation_config.json", **changes)
    with pytest.raises(ModelError, match="fails|has no processor|cannot be loaded"):
        LocalModel(folder).generate([question("pair", np.zeros((32, 32), np.uint8))], "pair")
