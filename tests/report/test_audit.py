# SPDX-License-Identifier: BSD-3-Clause
"""The audit: valid JSON that tells no more than was measured, and a page that is made of it alone."""

import copy
import hashlib
import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import unlearnkit.report
from unlearnkit import SSD, WeightEdit
from unlearnkit.data import cross_entropy
from unlearnkit.exceptions import DataError, EditMismatchError
from unlearnkit.metrics import evaluate
from unlearnkit.parameters import digest, named_tensors
from unlearnkit.report import Audit, audit

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.UnlearnWarning")
SCHEMA = json.loads((Path(unlearnkit.report.__file__).parent / "audit.schema.json").read_text())
VALID = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def squared(model, batch):
    X, target = batch
    return (model(X)[:, 0] - target).square()


VOID = {"meta", "br", "img", "use", "path", "hr"}


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids):
        return self.table(input_ids)


class Outline(HTMLParser):
    """Which tags a page has, and that they are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def named(self, *tags):
        return [attributes for tag, attributes in self.seen if tag in tags]


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


def plain(page):
    return html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_json_is_valid_and_finite(audited, case):
    data = audited.to_dict()
    VALID.validate(data)
    assert all(np.isfinite(number) for number in numbers(data))
    assert data["forget"] == data["forget"] | {"n": 60, "salted": True}
    assert data["request"]["by"] == "Zoë Ångström"
    assert data["edit"]["n_changed"] == case.method.edit_.n_changed > 0
    assert data["method"]["seconds"] == case.method.seconds_
    assert {one["name"]: one["value"] for one in data["method"]["parameters"]}["alpha"] == 2.0
    assert all(check["passed"] for check in data["checks"])
    assert len(data["checks"]) == 3


def test_scores_are_those_of_evaluate(audited, case):
    keep = {**case.sets, "oracle": case.oracle, "original": case.base}
    after = evaluate(case.result, **keep, seconds=case.method.seconds_).scores
    before = evaluate(case.base, **keep).scores
    rows = {row["name"]: row for row in audited.to_dict()["scores"]}
    assert set(rows) == set(after) | set(before)
    for name, score in after.items():
        assert rows[name]["after"] == {"value": score.value, "low": score.low, "high": score.high}
        assert rows[name]["target"] == score.target
        assert rows[name]["before"]["value"] == before[name].value


def test_digests_can_be_recomputed_by_hand(audited, case):
    data = audited.to_dict()
    rest = {key: value for key, value in data.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == data["digest"] == audited.digest
    lines = "".join(f"{name} {digest(tensor)}\n" for name, tensor in named_tensors(case.result).items())
    assert hashlib.blake2b(lines.encode(), digest_size=16).hexdigest() == data["model"]["result"]["digest"]
    assert data["model"]["base"]["digest"] != data["model"]["result"]["digest"]


def test_the_page_is_made_of_the_json_alone(audited, tmp_path):
    pytest.importorskip("matplotlib")
    path = audited.save_json(tmp_path / "audit.json")
    again = Audit.load_json(path)
    assert again.to_dict() == audited.to_dict()
    assert again.salt is None
    assert again.save(tmp_path / "audit.html").read_text(encoding="utf-8") == audited.html()


def test_the_page_says_it_all(audited, case):
    pytest.importorskip("matplotlib")
    page, data = audited.html(), audited.to_dict()
    text = " ".join(plain(page).split())
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.named("h1")) == 1
    told = [data["verdict"]["headline"], *data["verdict"]["sentences"], *data["request"].values()]
    told += [data["digest"], data["forget"]["digest"], data["model"]["base"]["digest"], "SSD(alpha=2.0)"]
    told += [part for one in data["not_verified"] for part in one.values()]
    told += [check["what"] for check in data["checks"]] + ["unlearnkit forget", torch.__version__]
    told += [row["meaning"][1:] for row in data["scores"]] + [row["name"] for row in data["edit"]["tensors"]]
    for words in told:
        assert " ".join(words.split()) in text
    order = ["What was asked", "What was done", "Which model", "Where the model was changed", "Losses before",
             "Measures", "What was checked", "What was not verified", "How to reproduce", "This document"]  # fmt: skip
    places = [page.index(title) for title in order]
    assert places == sorted(places)


def test_the_page_needs_nothing_and_runs_nothing(audited):
    pytest.importorskip("matplotlib")
    page = audited.html()
    outline = Outline(page)
    assert not outline.named("script", "link", "iframe", "img", "object", "form")
    assert "://" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert not any(name.startswith("on") for _, found in outline.seen for name in found)
    pictures = [one for one in outline.named("div") if one.get("role") == "img"]
    assert len(pictures) == 3 and all(len(one["aria-label"]) > 30 for one in pictures)
    assert all(one.get("scope") for one in outline.named("th"))


EVIL = "<script>alert(1)</script><b onclick='x()'> & \"q\" {{ 7 * 7 }} $x^2$ 日本語 العربية"


def test_text_stays_text(case):
    pytest.importorskip("matplotlib")
    made = audit(
        case.base, case.result, **case.sets, method=EVIL, request={EVIL: EVIL, "id": EVIL}, command=EVIL
    )
    VALID.validate(made.to_dict())
    page = made.html()
    outline = Outline(page)
    assert not outline.named("script")
    assert all(list(found) == ["style"] for found in outline.named("b"))  # the bars' own
    # title, heading, two fields and a name, method, command; {{ }} was not computed
    assert plain(page).count(EVIL) == 7


def test_what_no_file_can_hold_is_replaced(case, tmp_path):
    odd = "a\x00b\ud800c\u202ed\nmore"
    made = audit(case.base, case.result, **case.sets, request={"id": odd, "none": None, "n": 10**30})
    assert made.to_dict()["request"] == {"id": "a b?cd\nmore", "n": str(10**30)}
    assert Audit.load_json(made.save_json(tmp_path / "a.json")).digest == made.digest


def test_verify_names_what_differs(audited, case):
    forget = case.sets["forget"]
    audited.verify(case.base, case.result, forget)
    order = torch.randperm(60)
    audited.verify(
        forget=DataLoader(TensorDataset(*(part[order] for part in forget)), batch_size=7, shuffle=True)
    )
    with pytest.raises(DataError, match="not the audited base"):
        audited.verify(case.result)
    with pytest.raises(DataError, match="not the audited result"):
        audited.verify(unlearned=case.base)
    with pytest.raises(DataError, match=r"59 samples .* audit has 60"):
        audited.verify(forget=tuple(part[1:] for part in forget))
    with pytest.raises(DataError, match="or not its salt"):
        audited.verify(forget=forget, salt="another")
    stored = Audit(audited.to_dict())
    with pytest.raises(DataError, match="is salted: pass salt="):
        stored.verify(forget=forget)
    stored.verify(forget=forget, salt=audited.salt)


def test_the_salt_is_new_each_time_and_not_in_the_report(audited, case):
    one, other = (audit(case.base, case.result, **case.sets) for _ in range(2))
    assert one.salt != other.salt
    assert one.to_dict()["forget"]["digest"] != other.to_dict()["forget"]["digest"]
    assert audited.salt not in json.dumps(audited.to_dict())
    open_one = audit(case.base, case.result, **case.sets, salt="")
    assert not open_one.to_dict()["forget"]["salted"]
    Audit(open_one.to_dict()).verify(forget=case.sets["forget"])


def altered(data):
    data["forget"]["n"] += 1


def of_another_kind(data):
    data["format"] = "something"


def newer(data):
    data["version"] = 2


@pytest.mark.parametrize(
    ("change", "said"), [(altered, "was altered"), (of_another_kind, "no audit"), (newer, "format version 2")]
)
def test_what_is_no_audit_is_refused(audited, change, said):
    data = audited.to_dict()
    change(data)
    with pytest.raises(DataError, match=said):
        Audit(data)
    assert Audit(audited.to_dict()).digest == audited.digest  # to_dict gave a copy


@pytest.mark.parametrize("text", ["{", "[]", "nonsense"])
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"cannot read|no audit"):
        Audit.load_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="cannot read"):
        Audit.load_json(tmp_path / "missing.json")


def test_nothing_changed_is_said_first(case):
    made = audit(case.base, copy.deepcopy(case.base), **case.sets)
    assert made.to_dict()["verdict"]["level"] == "unchanged"
    assert {"what": "Base and result differ", "passed": False} in made.to_dict()["checks"]
    VALID.validate(made.to_dict())


def test_without_an_oracle_no_likeness_is_claimed(case):
    data = audit(case.base, case.result, **case.sets).to_dict()
    assert data["verdict"]["level"] == "unknown"
    titles = [one["title"] for one in data["not_verified"]]
    assert titles[0] == "Likeness to retraining"
    assert {"Other copies", "Who made the result", "Time", "Single samples"} <= set(titles)


def test_what_was_passed_is_not_called_open(audited, case):
    titles = {one["title"] for one in audited.to_dict()["not_verified"]}
    assert {"The retrained model", "How much retraining varies", "Other copies"} <= titles
    assert not titles & {"Likeness to retraining", "Who made the result", "Time"}
    two = audit(case.base, case.result, **case.sets, oracle=[case.oracle, case.oracle]).to_dict()
    assert "How much retraining varies" not in {one["title"] for one in two["not_verified"]}
    assert two["oracle"] == {"kind": "models", "n": 2}


def test_what_evaluate_notes_is_told_once(audited):
    texts = [one["text"] for one in audited.to_dict()["not_verified"]]
    assert any(text.startswith("Weak: mia") for text in texts)
    assert not any(text.startswith("One oracle") for text in texts)
    assert len([text for text in texts if "single samples can be told" in text or "rare or odd" in text]) == 1


def test_declared_values_serve_as_oracle(case):
    values = {"test": 0.9, "retain": 0.99, "forget": 0.1, "mia": 0.9}
    data = audit(case.base, case.result, **case.sets, oracle=values).to_dict()
    assert data["oracle"] == {"kind": "values", "n": 0}
    assert "retrained" not in data["losses"]["sets"]
    assert data["verdict"]["level"] != "unknown"


def test_results_that_were_handed_in_are_not_measured_again(case):
    made = audit(
        case.base, case.result, **case.sets, evaluation={"test": 0.25}, before={"test": float("nan")}
    )
    data = made.to_dict()
    VALID.validate(data)
    (row,) = data["scores"]
    assert (row["after"]["value"], row["before"]["value"], row["n"]) == (0.25, None, None)
    assert any("handed in as plain values" in point["text"] for point in data["not_verified"])


def test_other_tasks_have_losses_alone(tmp_path):
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    base = nn.Linear(3, 1)
    result, oracle = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        result.weight += 3
        oracle.weight += 3.001
    X, y = torch.randn(300, 3), torch.randn(300)
    y[:100] = base(X[:100]).detach()[:, 0]  # what the base knows by heart
    sets = {"forget": (X[:100], y[:100]), "retain": (X[100:200], y[100:200]), "test": (X[200:], y[200:])}
    made = audit(base, result, **sets, oracle=oracle, loss=squared)
    data = made.to_dict()
    VALID.validate(data)
    assert data["scores"] == []
    assert data["losses"]["name"] == "squared"
    assert data["verdict"]["level"] == "closer"
    assert "None: the audit was made with a loss alone" in made.html()
    with pytest.raises(DataError, match="For regression or another task pass loss="):
        audit(base, result, **sets)


def test_what_evaluate_refuses_names_the_way_out():
    tokens = {"input_ids": torch.arange(40).view(8, 5) % 7, "labels": torch.arange(1, 41).view(8, 5) % 7}
    language = Language()
    sets = {name: [tokens] for name in ("retain", "forget", "test")}
    with pytest.raises(DataError, match="audit: for another task than classification pass loss="):
        audit(language, copy.deepcopy(language), **sets)
    assert audit(language, copy.deepcopy(language), **sets, loss=cross_entropy).to_dict()["forget"]["n"] == 8


def test_the_methods_edit_is_held_against_the_models(case):
    other = SSD(alpha=1.1).fit(case.base, case.sets["retain"], case.sets["forget"])
    assert other.edit_ != case.method.edit_
    checks = audit(case.base, case.result, **case.sets, method=other).to_dict()["checks"]
    assert [check["passed"] for check in checks if check["what"].startswith("The method's own")] == [False]
    with pytest.raises(EditMismatchError, match="edit= is not what turns model into unlearned"):
        audit(case.base, case.result, **case.sets, edit=other.edit_)
    with pytest.raises(EditMismatchError):
        audit(case.base, nn.Linear(2, 2), **case.sets)


def test_forgotten_samples_among_those_to_keep_are_found(case):
    X, y = (torch.cat([case.sets[name][at] for name in ("forget", "retain")]) for at in (0, 1))
    train = TensorDataset(X, y)
    sets = {
        "forget": Subset(train, range(60)),
        "retain": Subset(train, range(55, 240)),
        "test": case.sets["test"],
    }
    checks = audit(case.base, case.result, **sets).to_dict()["checks"]
    assert any("5 are" in check["what"] and not check["passed"] for check in checks)


def test_models_and_random_state_are_left_as_they_were(case):
    models = [case.base, case.result, case.oracle]
    before, state = [copy.deepcopy(model) for model in models], torch.get_rng_state()
    case.base.train()
    audit(*models[:2], **case.sets, oracle=case.oracle)
    assert case.base.training
    case.base.eval()
    assert all(not WeightEdit.between(old, new) for old, new in zip(before, models, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"request": "17"}, "request must be a mapping"),
        ({"request": {"samples": torch.zeros(3)}}, "holds no samples"),
        ({"method": SSD}, "method must be a text or an estimator"),
        ({"oracle": []}, "oracle must be a retrained model"),
        ({"oracle": 3}, "oracle must be a retrained model"),
        ({"seconds": -1}, "seconds must be"),
        ({"loss": lambda model, batch: model(batch[0]).mean()}, "one value a sample"),
        ({"forget": (torch.zeros(0, 6), torch.zeros(0).long())}, "forget is empty"),
    ],
)
def test_wrong_arguments_are_named(case, arguments, said):
    with pytest.raises(DataError, match=said):
        audit(case.base, case.result, **case.sets | arguments)


def test_json_needs_no_extra(case, tmp_path, monkeypatch):
    for name in ("jinja2", "matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    made = audit(case.base, case.result, **case.sets)
    made.save_json(tmp_path / "audit.json")
    with pytest.raises(ImportError, match="unlearnkit\\[report\\]"):
        made.html()


def test_repr_is_the_verdict(audited):
    assert audited.verdict in repr(audited)
    assert audited.digest[:12] in repr(audited)
