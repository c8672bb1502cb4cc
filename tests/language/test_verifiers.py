"""The built-in rewards, one by one."""

from __future__ import annotations

import json
import sys
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advantage.errors import UserError
from advantage.language.mathematics import equal
from advantage.language.rewards import resolve_rewards
from advantage.language.types import Completion, Prompt
from advantage.language.verifiers import BUILT_IN, MathVerify, built_in, exact, numeric
from advantage.language.worker import WorkerError


def run(spec, texts, **columns):
    """The reward of some texts, through the names that users write."""
    name, _, argument = spec.partition(":")
    ids = [[7] * len(text) for text in texts]
    function = built_in(name, argument or None)
    return function(prompts=["?"] * len(texts), completions=list(texts), completion_ids=ids, **columns)


def test_exact_is_letter_for_letter_but_for_blanks_around():
    assert exact(["a b ", "ab", "A b", ""], answer=["a b"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert exact(["4", "4"], answer=[4, None]) == [1.0, None]
    chat = [[{"role": "assistant", "content": " 4"}]]
    assert exact(chat, answer=["4"]) == [1.0]


@given(st.integers(-(10**12), 10**12))
def test_numeric_reads_the_last_number_however_it_is_written(number):
    texts = [
        f"first 77, then {number}.",
        f"{number:,}",
        f"x={number}.0",
        f"{number}e0",
        f"{number + 10**7 + 1}",
        "none",
    ]
    assert numeric(texts, answer=[str(number)] * 6) == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_numeric_edges():
    assert run("numeric", [".5", "0.5000001", "0.51", "5-3"], answer=["1/2 = 0.5"] * 3 + ["-3"]) == [1, 1, 0, 1]
    assert run("numeric:0.1", ["0.55", "0.7"], answer=["0.5"] * 2) == [1.0, 0.0]
    assert run("numeric", ["5", "5"], answer=["five", None]) == [None, None]
    assert run("numeric", ["1e999", "9" * 400], answer=["1", "1"]) == [0.0, 0.0]
    assert run("numeric", ["1,23", "12,345"], answer=["23", "12345"]) == [1.0, 1.0]


def test_regex_finds_and_format_fits_all():
    assert run(r"regex:^\d+$", ["12 ", "12a"]) == [1.0, 0.0]
    assert run("regex:a:b", ["xa:by", "ab"]) == [1.0, 0.0]
    assert run("format:<a>.*</a>", ["<a>1\n2</a>", "so <a>1</a>", "<a>1</a> so", "<a>1"]) == [1, 0, 0, 0]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_is_valid(value):
    assert run("json_valid", [json.dumps(value), json.dumps(value) + "}"]) == [1.0, 0.0]


def test_what_is_no_json():
    texts = ["", "NaN", "[Infinity]", "{'a': 1}", '{"a": 1,}', "[" * 100_000]
    assert run("json_valid", texts) == [0.0] * 6


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 1}}}


def test_json_schema_from_a_file_or_in_place(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    for spec in (f"json_schema:{path}", f"json_schema:{json.dumps(SCHEMA)}"):
        assert run(spec, ['{"a": 1}', '{"a": 0}', '{"b": 1}', "{", '"a"']) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_length_and_overlong_count_tokens():
    assert run("length:20", ["x" * 10, "", "x" * 40]) == [-0.5, 0.0, -2.0]
    assert run("overlong:100:20", ["x" * 80, "x" * 90, "x" * 100, "x" * 120]) == [0.0, -0.5, -1.0, -1.0]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("exact:3", "takes no argument"),
        ("regex", "regex:PATTERN"),
        ("regex:(", "is no regular expression"),
        ("format:[", "is no regular expression"),
        ("length", "length:TOKENS"),
        ("length:x", "length:TOKENS"),
        ("length:0", "at least 1"),
        ("overlong:100", "overlong:MAX:CACHE"),
        ("overlong:10:20", "cache is 20"),
        ("overlong:0:0", "max_length"),
        ("numeric:-1", "at least 0"),
        ("numeric:nan", "at least 0"),
        ("numeric:1:2", "numeric[:TOLERANCE]"),
        ("math_verify:0", "above 0"),
        ("math_verify:inf", "above 0"),
        ("json_schema", "json_schema:PATH"),
        ("json_schema:missing.json", "missing.json"),
        ("json_schema:{", "is no JSON Schema"),
        ('json_schema:{"type": 3}', "is no JSON Schema"),
        ("code", "sandboxed code rewards are not built"),
    ],
)
def test_mistakes_are_one_line(spec, says):
    with pytest.raises(UserError) as error:
        run(spec, [])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_schemas_download_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *given, **_: asked.append(given))
    function = built_in("json_schema", '{"$ref": "http://127.0.0.1:9/schema.json"}')
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        function(completions=["1"])
    assert not asked


@pytest.mark.parametrize(("spec", "module"), [("math_verify", "math_verify"), ("json_schema:{}", "jsonschema")])
def test_missing_packages_name_the_extra(monkeypatch, spec, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"advantage\[language\]"):
        run(spec, [])


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("42", "The answer is 42.", 1.0),
        ("42", "The answer is 43.", 0.0),
        ("1/2", r"so \boxed{\frac{2}{4}}", 1.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        ("x^2+2x+1", "$(x+1)^2$", 1.0),
        ("x^2+2x+1", "$(x-1)^2$", 0.0),
        (r"$\sqrt{2}$", r"$2/\sqrt{2}$", 1.0),
        (r"\{1,2\}", r"$\{2,1\}$", 1.0),
        ("3,000", "3000", 1.0),
        ("", "3", None),
        ("42", "", 0.0),
    ],
)
def test_mathematics(answer, text, expected):
    assert equal(answer, text) == expected


def test_math_verify_kills_what_hangs_and_judges_the_rest():
    reward = MathVerify(timeout=20.0)
    assert reward(["$4$", "5"], answer=["4", None]) == [1.0, None]
    reward.worker.timeout = 2.0
    first, hung, last = reward(["4", "$9^{9^{9^{9}}} - 9^{9^{9^{8}}}$", "4"], answer=["4", "4", "4"])
    assert first == last == 1.0
    assert isinstance(hung, WorkerError)
    reward.worker.close()


def test_a_hung_verification_is_excluded_and_counted():
    rewards = resolve_rewards(["math_verify:20"])
    verifier = rewards.parts[0].function
    verifier.worker.function = "tests.language.crooked:verify"
    prompts = [Prompt((1,), "?", {"answer": "4"}, index) for index in range(3)]
    verifier.worker.call("4", "4")
    verifier.worker.timeout = 0.5
    scored = rewards(prompts, [Completion((1,), (0.0,), "stop")] * 3, ["4", "hang", "5"])
    verifier.worker.close()
    assert scored.valid.tolist() == [True, False, True] and scored.total.tolist() == [1.0, 0.0, 0.0]
    assert scored.failures == {"math_verify:20": 1}


def test_every_built_in_says_how_it_is_written():
    assert all(text.startswith(name) for name, text in BUILT_IN.items())
