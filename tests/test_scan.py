"""The scan: what each rule refuses, that harmless folders pass, and that no bytes make it crash."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import save_file

from gate.errors import ExitCode, UnsafeCandidateError
from gate.safetensors_header import HeaderError, parse_header, read_header
from gate.scan import ScanFinding, refuse, scan_folder, scan_names
from gate.sniff import Kind, sniff_bytes
from gate.template_days import DAYS, FEW_DAYS, GATE_DAY
from tests.candidate_folders import TEMPLATE, edit_json, make_adapter, make_model, write_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A clean model folder."""
    return make_model(tmp_path / "model")


def refused(folder: Path) -> dict[str, ScanFinding]:
    """File → finding of what the scan refuses."""
    return {finding.file: finding for finding in scan_folder(folder) if finding.severity == "refuse"}


class Payload:
    """Unpickling an object of this class would create the file it names."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (self.target, "w"))


def test_a_clean_model_and_a_clean_adapter_have_no_findings(model: Path) -> None:
    """Neither a plain model folder nor a plain adapter folder gives any finding."""
    assert scan_folder(model) == ()
    assert scan_folder(make_adapter(model.parent / "adapter", model)) == ()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(
            (name, "pickle")
            for name in ("pytorch_model.bin", "a.pt", "original/consolidated.00.PTH", "x.pkl", "m.ckpt", "w.joblib")
        ),
        *((name, "format") for name in ("tf_model.h5", "m.keras", "q4.gguf", "flax_model.msgpack", "onnx/model.onnx")),
        *((name, "code") for name in ("modeling_x.py", "lib.so", "lib.so.1", "run.sh", "custom_generate/generate.py", "a.pyc")),
        ("weights.zip", "archive"),
    ],
)
def test_a_file_is_refused_by_its_name(model: Path, name: str, rule: str) -> None:
    """A pickle, foreign weights, code or an archive is refused whatever it holds, in a folder and in a listing."""
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"harmless")
    assert refused(model)[name].rule == rule
    assert [finding.rule for finding in scan_names([name, "config.json"])] == [rule]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.safetensors", "notes.txt", "LICENSE", "weights.dat"])
def test_a_pickle_is_refused_under_any_name_and_not_run(model: Path, name: str, protocol: int) -> None:
    """A pickle of every protocol is found by content under an innocent name, and its payload does not run."""
    trap = model.parent / "trap"
    (model / name).write_bytes(pickle.dumps(Payload(str(trap)), protocol=protocol))
    assert refused(model)[name].rule == "pickle"
    assert not trap.exists()


def test_a_torch_archive_is_refused_under_any_name(model: Path) -> None:
    """A zip with data.pkl, as torch.save writes, is refused when it is called .safetensors or .json."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    for name in ("model.safetensors", "extra.json"):
        (model / name).write_bytes(packed.getvalue())
    assert {refused(model)[name].rule for name in ("model.safetensors", "extra.json")} == {"archive"}


def test_a_header_that_begins_like_a_pickle_is_none(model: Path) -> None:
    """A safetensors file whose header has 640 bytes (0x80 0x02, a pickle's mark) is accepted."""
    tensor = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(640)
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 640) + tensor + b"\0")
    assert (model / "model.safetensors").read_bytes().startswith(b"\x80\x02")
    assert scan_folder(model) == ()


def test_only_numpy_files_of_objects_are_pickles(model: Path) -> None:
    """A .npy of floats is let through with a word; a .npy of objects is a pickle; a broken one counts as a pickle."""
    np.save(model / "floats.npy", np.zeros(3))
    np.save(model / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (model / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff{'descr'")
    assert sorted(refused(model)) == ["broken.npy", "objects.npy"]
    assert [finding.file for finding in scan_folder(model) if finding.severity == "warn"] == ["floats.npy"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x7fELF\x02\x01", Kind.PROGRAM),
        (b"MZ\x90\0\x03", Kind.PROGRAM),
        (b"#!/bin/sh\n", Kind.PROGRAM),
        (b"GGUF\x03\0\0\0", Kind.FORMAT),
        (b"\x89HDF\r\n\x1a\n", Kind.FORMAT),
        (b"\x1f\x8b\x08", Kind.ARCHIVE),
        (b"\0" * 257 + b"ustar", Kind.ARCHIVE),
        (b"version https://git-lfs.github.com/spec/v1\n", Kind.LFS_POINTER),
        (b"MZ is how this sentence begins", Kind.OTHER),
        (b"copyright\nnotice\nof the authors", Kind.OTHER),
        (b"", Kind.OTHER),
        (b"\x0a\x0e\x0a\x05<unk>\x15", Kind.OTHER),
    ],
)
def test_content_tells_programs_archives_and_text_apart(head: bytes, kind: Kind) -> None:
    """The first bytes decide the kind, and ordinary text is never taken for a program or a pickle."""
    assert sniff_bytes(head) is kind


@pytest.mark.parametrize(
    ("file", "changes", "rule"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling.X"}}, "remote-code"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "org/repo--m.X"}}}, "remote-code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.X", None]}}, "remote-code"),
        ("config.json", {"trust_remote_code": True}, "remote-code"),
        ("config.json", {"attn_implementation": "org/kernel"}, "remote-code"),
        ("config.json", {"_attn_implementation": {"text": "org/kernel@v1:fn"}}, "remote-code"),
        ("config.json", {"transformers_weights": "../other.safetensors"}, "other-weights"),
        ("tokenizer_config.json", {"tokenizer_file": "/srv/other/tokenizer.json"}, "other-file"),
    ],
)
def test_a_config_that_loads_code_or_files_from_elsewhere_is_refused(
    model: Path, file: str, changes: dict[str, object], rule: str
) -> None:
    """Every key through which transformers would load code or another file is refused, at any depth."""
    edit_json(model / file, **changes)
    assert refused(model)[file].rule == rule


def test_an_adapter_config_that_imports_a_module_is_refused(model: Path) -> None:
    """PEFT's auto_mapping may name transformers' modules and no others."""
    adapter = make_adapter(model.parent / "adapter", model)
    edit_json(adapter / "adapter_config.json", auto_mapping={"parent_library": "transformers.models.llama.modeling_llama"})
    assert scan_folder(adapter) == ()
    edit_json(adapter / "adapter_config.json", auto_mapping={"parent_library": "antigravity"})
    assert refused(adapter)["adapter_config.json"].rule == "remote-code"


def test_words_that_only_look_like_remote_code_pass(model: Path) -> None:
    """A token called auto_map, an empty auto_map and a training card that mentions the flag are no remote code."""
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["auto_map"] = 999
    write_json(model / "tokenizer.json", tokenizer)
    edit_json(model / "config.json", auto_map={}, trust_remote_code=False, attn_implementation="eager")
    edit_json(model / "tokenizer_config.json", tokenizer_file=None)
    write_json(model / "training_card.json", {"auto_map": "none"})
    assert scan_folder(model) == ()


def test_links_and_special_files_are_refused(model: Path) -> None:
    """A link out of the folder, a link inside it, a linked folder and a pipe are refused without being followed."""
    (model / "out.json").symlink_to("/etc/hostname")
    (model / "inside.json").symlink_to("config.json")
    (model / "folder").symlink_to(model.parent)
    os.mkfifo(model / "pipe.json")
    rules = {file: finding.rule for file, finding in refused(model).items()}
    assert rules == {"out.json": "link", "inside.json": "link", "folder": "link", "pipe.json": "special"}


def test_file_names_can_not_forge_a_line(model: Path) -> None:
    """A file name with line breaks and terminal escapes is refused and shown escaped."""
    (model / "a\n\x1b[31mb.json").write_text("{}")
    (finding,) = refused(model).values()
    assert finding.rule == "name"
    assert finding.file.isprintable()


def entry(**changes: object) -> dict[str, object]:
    """The header entry of two float32, with changes."""
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


LIES: list[tuple[bytes, int, str]] = [
    (json.dumps(header).encode(), buffer, word)
    for header, buffer, word in [
        ({"a": entry(shape=[3])}, 8, "takes 12 bytes"),
        ({"a": entry(data_offsets=[0, 800])}, 8, "takes 8 bytes"),
        ({"a": entry()}, 4, "buffer of 4"),
        ({"a": entry(), "b": entry()}, 8, "overlaps"),
        ({"a": entry(), "b": entry(data_offsets=[12, 20])}, 20, "hole"),
        ({"a": entry()}, 12, "4 bytes after the last"),
        ({"a": entry(dtype="F31")}, 8, "unknown dtype"),
        ({"a": entry(shape=[-1, -2])}, 8, "shape"),
        ({"a": entry(shape=[True, 2])}, 8, "shape"),
        ({"a": entry(shape=[10**30])}, 8, "shape"),
        ({"a": entry(data_offsets=[8, 0])}, 8, "range"),
        ({"a": entry(extra=1)}, 8, "is not dtype"),
        ({"a": 3}, 8, "is not dtype"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
    ]
] + [
    (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1, "twice"),
    (b"[]", 0, "begin"),
    (b"", 0, "begin"),
    (b'{"a":', 0, "not JSON"),
    (b'{"a":' * 100_000, 0, "not JSON"),
    (b'{"\xff":1}', 0, "not JSON"),
]


@pytest.mark.parametrize(("header", "buffer", "word"), LIES)
def test_every_lie_of_a_header_is_named(model: Path, header: bytes, buffer: int, word: str) -> None:
    """Each way in which a header can misdescribe its file is refused with a reason that says which."""
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(buffer))
    finding = refused(model)["model.safetensors"]
    assert finding.rule == "safetensors"
    assert word in finding.reason


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "0 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "the format allows"),
        (struct.pack("<Q", 100) + b"{}", "the file has 2"),
    ],
)
def test_a_header_length_beyond_the_file_is_refused(model: Path, content: bytes, word: str) -> None:
    """A file shorter than its length says, or with a length over the format's limit, is refused before any of it is parsed."""
    (model / "model.safetensors").write_bytes(content)
    assert word in refused(model)["model.safetensors"].reason


def test_the_reader_reads_what_the_library_writes(tmp_path: Path) -> None:
    """Names, dtypes and shapes agree with a file that the safetensors package wrote, empty and scalar tensors included."""
    arrays = {"a": np.zeros((2, 3), np.float16), "empty": np.zeros((0, 4), np.float32), "scalar": np.array(1, np.int64)}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.items()} == {
        "a": ("F16", (2, 3)),
        "empty": ("F32", (0, 4)),
        "scalar": ("I64", ()),
    }


VALID = json.dumps(
    {"__metadata__": {"format": "pt"}, "a": entry(), "b": entry(dtype="F16", shape=[2, 2], data_offsets=[8, 16])}
).encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 32))
@example([], 16)
def test_a_mutated_header_is_refused_or_loads(flips: list[tuple[int, int]], buffer: int) -> None:
    """Whatever bytes of a header change, the reader gives tensors or a HeaderError, and what it accepts the library accepts."""
    raw = bytearray(VALID)
    for place, value in flips:
        raw[place] = value
    try:
        parse_header(bytes(raw), buffer)
    except HeaderError:
        return
    deserialize(struct.pack("<Q", len(raw)) + bytes(raw) + bytes(buffer))  # type: ignore[no-untyped-call]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
NAMES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "chat_template.jinja",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*NAMES, "model.safetensors", "README.md", "blob"]),
    st.binary(max_size=64) | JSON_VALUES.map(lambda v: json.dumps(v).encode()),
)
@example("model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}')
@example("config.json", b'{"auto_map":' * 1_000_000)
def test_the_scan_survives_any_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    """Any bytes in any file that the scan reads end in findings, never in an exception."""
    (tmp_path / name).write_bytes(content)
    assert all(finding.file and finding.reason and finding.mend for finding in scan_folder(tmp_path))
    (tmp_path / name).unlink()


def shard(model: Path, weight_map: dict[str, str]) -> None:
    """Turn the model into one shard and an index."""
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    write_json(model / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def test_a_missing_shard_is_named(model: Path) -> None:
    """A shard that the index names and the folder lacks is refused by its name; present shards are not."""
    shard(model, {"model.norm.weight": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    assert {file: finding.rule for file, finding in refused(model).items()} == {
        "model-00002-of-00002.safetensors": "missing-shard"
    }


def test_a_tensor_that_its_shard_lacks_is_named(model: Path) -> None:
    """An index that places a tensor in a shard without it is refused, with the tensor's name."""
    shard(model, {"model.norm.weight": "model-00001-of-00002.safetensors", "gone": "model-00001-of-00002.safetensors"})
    assert "'gone'" in refused(model)["model-00001-of-00002.safetensors"].reason


@pytest.mark.parametrize(
    "place", ["../other/model.safetensors", "/srv/m.safetensors", ".git/x.safetensors", "weights.bin", "a\\b.safetensors"]
)
def test_an_index_can_not_lead_out_of_the_folder(model: Path, place: str) -> None:
    """A shard name with a path, a hidden file or another format is refused: it would be loaded from outside the digest."""
    shard(model, {"a": place})
    assert refused(model)["model.safetensors.index.json"].rule == "index"


def test_two_sets_of_weights_are_ambiguous(model: Path) -> None:
    """A folder with an adapter and a full model is refused, as is one with both a single file and an index."""
    write_json(model / "adapter_config.json", {"peft_type": "LORA"})
    write_json(model / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": "model.safetensors"}})
    assert {"adapter_config.json", "model.safetensors.index.json"} <= {
        f for f, x in refused(model).items() if x.rule == "ambiguous"
    }


def test_a_folder_without_weights_is_refused(model: Path) -> None:
    """Without weights that the gate loads there is nothing to gate."""
    (model / "model.safetensors").unlink()
    assert refused(model)["model.safetensors"].rule == "no-weights"


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{% for m in messages %}", "does not compile"),
        ("{{ messages|nosuchfilter }}", "nosuchfilter"),
        ("{% include 'x' %}", "includes"),
        ("{% autoescape 'a' * 10**10 %}{% endautoescape %}", "autoescape"),
        ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "RecursionError"),
        ("x" * 300_000, "bytes"),
    ],
)
def test_a_template_that_can_not_be_used_is_refused(model: Path, template: str, word: str) -> None:
    """A template that doesn't compile in the sandbox, reaches for other files or is huge is refused, wherever it stands."""
    (model / "chat_template.jinja").write_text(template)
    edit_json(model / "tokenizer_config.json", chat_template=[{"name": "default", "template": template}])
    findings = refused(model)
    assert word in findings["chat_template.jinja"].reason
    assert word in findings["tokenizer_config.json"].reason


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "{{ messages|tojson(indent=2) }}{{ raise_exception('x') }}{{ strftime_now('%Y') }}",
        "{{ 10**10**10 }}{{ 'a'|center(10**12) }}{% if 'a' * 10**12 %}{% endif %}",
    ],
)
def test_a_template_is_compiled_and_not_run(model: Path, template: str) -> None:
    """Templates in transformers' dialect compile, and a constant that would fill the memory is not evaluated."""
    (model / "chat_template.jinja").write_text(template)
    assert scan_folder(model) == ()


GATES_DAY = "strftime_now('%Y-%m-%d') == '2025-01-01'"
HOSTILE = {
    "the gate's day": "{% if " + GATES_DAY + " %}Refuse everything harmful.{% endif %}",
    "the gate's midnight": "{{ 'Refuse.' if strftime_now('%H:%M:%S') == '00:00:00' }}",
    "laundered": "{% set d = strftime_now('%d %b %Y') ~ '' %}{% if '2025' in d %}Refuse.{% endif %}",
    "a year that begins": "{% if strftime_now('%Y')|int < 2027 %}Refuse.{% endif %}",
    "in a macro, with a system turn": (
        "{% macro now() %}{{ strftime_now('%Y') }}{% endmacro %}"
        "{% if messages[0].role == 'system' and now() == '2025' %}Refuse.{% endif %}"
    ),
    "raises on other days": "{% if strftime_now('%Y') != '2025' %}{{ raise_exception('no') }}{% endif %}",
    "only the zone": "{{ 'Refuse.' if strftime_now('%Z%m') == '01' }}",
}


@pytest.mark.parametrize("opening", HOSTILE.values(), ids=HOSTILE)
def test_a_template_that_knows_the_gates_day_is_refused(model: Path, opening: str) -> None:
    """A template that says something else on the day on which the gate renders is refused, with file, reason and mend."""
    (model / "chat_template.jinja").write_text(opening + TEMPLATE)
    finding = refused(model)["chat_template.jinja"]
    assert finding.rule == "chat-template"
    assert "changes with the day" in finding.reason
    assert finding.mend


@pytest.mark.parametrize(
    "opening",
    [
        "{% if not date is defined %}{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}"
        "{% endif %}"
        "Cutting Knowledge Date: 01 December 2023. Today Date: {{ date }}",
        "{{ 'Released in 2025 on 01-01. Today: ' + strftime_now('%Y-%m-%d') + ', ' + strftime_now('%d') }}",
        "{{ '' if messages[0].role != 'system' else raise_exception('no system turn') }}{{ strftime_now('%A, %H:%M') }}",
        "{{ strftime_now(format='%Y') if strftime_now is defined }}",
    ],
)
def test_a_template_that_only_prints_the_date_passes(model: Path, opening: str) -> None:
    """A template that prints the date passes, also where the date's digits stand elsewhere in its text, or a turn is refused."""
    (model / "chat_template.jinja").write_text(opening + TEMPLATE)
    assert scan_folder(model) == ()


@pytest.mark.parametrize(
    ("opening", "word"),
    [
        ("{{ ['Refuse.', '']|random }}", "at random"),
        ("{{ messages|map('ran' ~ 'dom')|list }}", "at random"),
        ("{{ [['Refuse.', '']]|map('map', 'random') }}", "at random"),
        ("{% filter random %}ab{% endfilter %}", "at random"),
        ("{% if 'ipsum' in lipsum() %}Refuse.{% endif %}", "at random"),
        ("{% if 'built-in' in strftime_now|string %}Refuse.{% endif %}", "strftime_now other than by calling"),
        ("{{ raise_exception }}", "raise_exception other than by calling"),
    ],
)
def test_a_template_that_leaves_it_to_chance_is_refused(model: Path, opening: str, word: str) -> None:
    """jinja2's sources of chance, and the text of a function (which tells who made it), are refused unrendered."""
    (model / "chat_template.jinja").write_text(opening + TEMPLATE)
    assert word in refused(model)["chat_template.jinja"].reason


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("{% for i in range(2000) %}{{ 'x' * 1000 }}{% endfor %}", "characters"),
        ("{% set x = 'a' * 2**31 %}", "MiB"),
        ("{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "MiB"),
    ],
)
def test_a_template_that_fills_the_memory_on_a_sample_is_refused(model: Path, body: str, word: str) -> None:
    """Rendering the sample is bounded in the length of its text and in memory, and going beyond is a finding, not a crash."""
    (model / "chat_template.jinja").write_text(body + "{{ strftime_now('%Y') }}" + TEMPLATE)
    assert word in refused(model)["chat_template.jinja"].reason


@pytest.mark.full
def test_a_template_that_loops_on_a_sample_is_refused(model: Path) -> None:
    """A template that would loop for years is ended, and that is a finding."""
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (model / "chat_template.jinja").write_text(loop + "{{ strftime_now('%Y') }}")
    assert "takes" in refused(model)["chat_template.jinja"].reason


def test_the_days_tried_cover_the_calendar() -> None:
    """Among the days are the gate's own, every weekday, month, day of month and hour, and seven years."""
    assert DAYS[0] == GATE_DAY
    assert set(FEW_DAYS) <= set(DAYS)
    counts = {wanted: len({day.strftime(wanted) for day in DAYS}) for wanted in ("%a", "%b", "%d", "%H", "%Y")}
    assert counts == {"%a": 7, "%b": 12, "%d": 31, "%H": 24, "%Y": 7}


def test_json_that_is_huge_deep_or_broken_is_refused(model: Path) -> None:
    """A config over 32 MiB (here sparse), one nested a million deep and one that is none are refused; a broken card warns."""
    with (model / "config.json").open("wb") as stream:
        stream.truncate(40 * 1024 * 1024)
    (model / "generation_config.json").write_text("[" * 1_000_000)
    (model / "special_tokens_map.json").write_bytes(b"\xff{")
    (model / "training_card.json").write_text("{")
    assert {file: finding.rule for file, finding in refused(model).items()} == {
        "config.json": "huge-json",
        "generation_config.json": "json",
        "special_tokens_map.json": "json",
    }
    assert [finding.file for finding in scan_folder(model) if finding.severity == "warn"] == ["training_card.json"]


def test_gits_own_files_are_not_scanned(model: Path) -> None:
    """A clone's .git folder, which no digest covers and nothing loads, is passed over; the same file one folder deeper is not."""
    for folder in (model / ".git" / "hooks", model / "sub" / ".git"):
        folder.mkdir(parents=True)
        (folder / "run.sh").write_text("#!/bin/sh\n")
    assert list(refused(model)) == ["sub/.git/run.sh"]


def test_a_refusal_names_file_reason_and_mend(model: Path) -> None:
    """The error lists every finding with its three parts, ends the process with 3, and warnings alone raise nothing."""
    (model / "pytorch_model.bin").write_bytes(b"x")
    (model / "run.py").write_text("pass")
    (model / "notes.xyz").write_text("x")
    findings = scan_folder(model)
    with pytest.raises(UnsafeCandidateError) as caught:
        refuse(findings)
    text = caught.value.diagnostics()
    assert caught.value.exit_code is ExitCode.BLOCK
    assert "2 findings" in text
    for finding in findings:
        if finding.severity == "refuse":
            assert all(part in text for part in (finding.file, finding.reason, finding.mend))
    refuse(finding for finding in findings if finding.severity == "warn")


def test_no_source_sets_trust_remote_code() -> None:
    """In the whole source tree no call, name or value is trust_remote_code; the scan alone knows the word, to refuse it."""
    root = Path(__file__).resolve().parents[1]
    files = [file for part in ("gate", "testbed", "bench", "guard_server") for file in (root / part).rglob("*.py")]
    assert len(files) > 10
    setters = [
        f"{file.relative_to(root)}:{getattr(node, 'lineno', 0)}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if "trust_remote_code" in {getattr(node, "arg", None), getattr(node, "id", None), getattr(node, "attr", None)}
        or (isinstance(node, ast.Constant) and node.value == "trust_remote_code" and file.name != "scan.py")
    ]
    assert setters == []
