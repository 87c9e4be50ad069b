"""Gold graphs: how many of a sentence's typed entities and triples a model finds, given its mentions (CrossRE).

    python benchmarks/graph_quality.py --data CROSSRE --json FILE [--model FOLDER] [--domains ai politics science]

Each sentence goes whole through `GraphExtractor`, with its gold mentions and all labels of its domain in words. A
typed entity is right if its label is; a directed triple if (head, relation, tail) is gold; undirected, either order
counts. Classes that are a rest without a meaning (`misc`, `related-to`) are no candidates and no gold: an answer for
such a mention or pair is wrong. Of a relation's head and tail the model reads the roles ("part", "whole"), or with
`--ends types` the types, which CrossRE's relations hardly restrict. An answer counts where its probability is at least
the threshold; no threshold is fitted, all are printed. Rows, beside the model:

- "model, one direction": of the two orders of a pair the one with the higher score;
- "untrained": the same encoder, words and types with experts that move nothing (residual experts alone), and with one
  direction;
- "majority": the most frequent type for every mention, and the most frequent relation for every ordered pair;
- "none": no pair has a relation, which is right for most of them and finds nothing.
"""

import argparse
import copy
import json
import os
import platform
import random
import re
import sys
import time
from collections import Counter
from itertools import permutations

import torch
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from modeling_mgvmoe.data.crossre import crossre_files, read_crossre
from modeling_mgvmoe.data.environment import machine, versions
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.progress_bar import progress_bar
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.extraction import GraphExtractor
from modeling_mgvmoe.inference.model_folder import load_model

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
LABELS = os.path.join(ROOT, "configuration", "labels")
MODEL = os.path.join("configuration", "models", "mgvmoe-small")
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9)
KINDS = ("typed entities", "directed triples", "undirected triples")
NUMBERS = ("precision", "recall", "f1")


def processor_name():
    """Name of this machine's processor, as the system tells it."""
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            if match := re.search(r"^model name\s*:\s*(.*)$", file.read(), flags=re.MULTILINE):
                return match[1]
    return platform.processor() or platform.machine()


def gold_graphs(paths):
    """Sentences with their graphs, of files in CrossRE's format.

    Returns:
        A list of {"id", "text", "mentions", "types", "triples"}: distinct spans with the first label that each has in
        the file, and the set of (head, relation, tail), of places in `mentions`; labels are the file's.
    """
    found = read_crossre(paths, on_bad_span="skip")
    sentences = {}
    for post in found["typing"][0]:
        name = post["id"].rpartition("-")[0]
        own = sentences.setdefault(
            name, {"id": name, "text": post["text"], "mentions": [], "types": [], "triples": set()}
        )
        span = tuple(post["mentions"][0])
        if span not in own["mentions"]:
            own["mentions"].append(span)
            own["types"].append(post["label"])
    for post in found["relation"][0]:
        own = sentences.get(post["id"].rpartition("-")[0], {"mentions": []})
        head, tail = (tuple(span) for span in post["mentions"])
        if head in own["mentions"] and tail in own["mentions"]:
            own["triples"].add((own["mentions"].index(head), post["label"], own["mentions"].index(tail)))
    return list(sentences.values())


def in_words(sentences, types, relations):
    """The sentences with labels in words; `None` for a type that is left out, and no triple of a relation that is."""
    for own in sentences:
        own["types"] = [None if raw in types.left_out else types.words_of(raw).name for raw in own["types"]]
        own["triples"] = {
            (head, relations.words_of(raw).name, tail)
            for head, raw, tail in own["triples"]
            if raw not in relations.left_out
        }
    return sentences


def untrained(model):
    """A copy whose residual experts move nothing: the frozen encoder's similarity; `None` for other models."""
    if model.config.expert_type != "residual" or not model.config.freeze_text:
        return None
    same = copy.deepcopy(model)
    with torch.no_grad():
        same.mgvmoe.experts.expert_means.zero_()
    return same


def extracted(model, processor, sentences, words, batch_size, title):
    """For each sentence the answers of the model: (place, type, score) and (head, relation, tail, score)."""
    extractor = GraphExtractor(model, processor, **words, top_k=1, batch_size=batch_size)
    posts = [{name: own[name] for name in ("id", "text", "mentions")} for own in sentences]
    graphs = progress_bar(extractor.stream(posts, posts_at_once=8), title, len(posts), "sentence")
    return [
        {
            "types": [(place, one["label"], one["score"]) for place, one in enumerate(graph["mentions"])],
            "triples": [(one["head"], one["label"], one["tail"], one["score"]) for one in graph["relations"]],
        }
        for graph in graphs
    ]


def one_direction(answers):
    """The answers with the surer order of each pair alone; the first of two that are equally sure."""
    kept = []
    for own in answers:
        best = {}
        for triple in own["triples"]:
            pair = frozenset((triple[0], triple[2]))
            if pair not in best or triple[3] > best[pair][3]:
                best[pair] = triple
        kept.append({**own, "triples": list(best.values())})
    return kept


def majority(sentences):
    """The most frequent type and relation of the gold graphs for every mention and ordered pair."""
    types = Counter(name for own in sentences for name in own["types"] if name is not None)
    relations = Counter(name for own in sentences for _, name, _ in own["triples"])
    kind, relation = (counts.most_common(1)[0][0] if counts else None for counts in (types, relations))
    return [
        {
            "types": [(place, kind, 1.0) for place in range(len(own["types"]))],
            "triples": [(head, relation, tail, 1.0) for head, tail in permutations(range(len(own["types"])), 2)],
        }
        for own in sentences
    ]


def items(sentence, kind):
    """The gold items of a sentence, as a set."""
    if kind == "typed entities":
        return {(place, name) for place, name in enumerate(sentence["types"]) if name is not None}
    return {_triple(*triple, kind) for triple in sentence["triples"]}


def answered(answer, kind, threshold):
    """The items that an answer names with at least this score, as a set."""
    if kind == "typed entities":
        return {(place, name) for place, name, score in answer["types"] if score >= threshold}
    return {_triple(*triple, kind) for *triple, score in answer["triples"] if score >= threshold}


def _triple(head, name, tail, kind):
    return (head, name, tail) if kind == "directed triples" else (frozenset((head, tail)), name)


def counts_of(sentences, answers, kind, threshold):
    """Items in gold, in the answers, and in both."""
    pairs = [
        (items(own, kind), answered(answer, kind, threshold)) for own, answer in zip(sentences, answers, strict=True)
    ]
    return {
        "gold": sum(len(gold) for gold, _ in pairs),
        "answers": sum(len(found) for _, found in pairs),
        "right": sum(len(gold & found) for gold, found in pairs),
    }


def scores_of(counts):
    """Precision, recall and F1; 0 where nothing is answered or there is nothing."""
    gold, answers, right = (counts[name] for name in ("gold", "answers", "right"))
    return {
        "precision": right / answers if answers else 0.0,
        "recall": right / gold if gold else 0.0,
        "f1": 2 * right / (gold + answers) if gold + answers else 0.0,
    }


def both_directions(answers):
    """Pairs whose two orders have the same relation."""
    named = [{(head, name, tail) for head, name, tail, _ in own["triples"]} for own in answers]
    return sum((tail, name, head) in own for own in named for head, name, tail in own) // 2


def measure_domain(flags, model, processor, domain):
    """Rows of one domain, with their counts."""
    files = crossre_files(flags.data, [domain])
    relations, types = (read_label_set(os.path.join(LABELS, f"{name}.json")) for name in ("crossre", "crossner"))
    kept = [path for path in files if path.endswith(f"-{flags.split}.json")]
    if not kept:
        raise FileNotFoundError(f"split: {domain} has no file {domain}-{flags.split}.json in {flags.data!r}")
    # The candidates are those of the domain, whatever the sentences hold.
    of_domain = {raw for own in gold_graphs(files) for raw in own["types"]}
    typing = sorted(types.words_of(raw).name for raw in of_domain - set(types.left_out))
    relation = [info.name for raw, info in relations.classes.items() if raw not in relations.left_out]
    sentences = in_words(gold_graphs(kept), types, relations)
    if flags.limit is not None and flags.limit < len(sentences):
        sentences = random.Random(flags.seed).sample(sentences, flags.limit)
    words = {
        "typing_labels": typing,
        "relation_labels": relation,
        "label_descriptions": {name: texts for name, texts in {**types.texts(), **relations.texts()}.items()
                               if name in {*typing, *relation}},
    }  # fmt: skip
    if model.config.score == "similarity":
        by_types = relations.allowed_types(), relations.type_texts()
        types_of, words["type_descriptions"] = relations.role_types() if flags.ends == "roles" else by_types
        words["label_types"] = {name: types_of[name] for name in relation}
    started = time.perf_counter()
    answers = {"model": extracted(model, processor, sentences, words, flags.batch_size, domain)}
    seconds = time.perf_counter() - started
    if (before := untrained(model)) is not None:
        answers["untrained"] = extracted(before, processor, sentences, words, flags.batch_size, f"{domain}, untrained")
    answers |= {f"{name}, one direction": one_direction(own) for name, own in list(answers.items())}
    answers |= {"majority": majority(sentences), "none": [{"types": [], "triples": []} for _ in sentences]}
    rows = []
    shared = {"domain": domain, "sentences": len(sentences), "types": len(typing), "relations": len(relation)}
    for method, own in answers.items():
        both = both_directions(own)
        for kind in KINDS:
            for threshold in flags.thresholds if method not in ("majority", "none") else (0.0,):
                counts = counts_of(sentences, own, kind, threshold)
                rows.append({**shared, "method": method, "kind": kind, "threshold": threshold, **counts,
                             **scores_of(counts), "pairs with one relation in both directions": both,
                             "seconds": seconds if method == "model" else None})  # fmt: skip
    return rows


def all_domains(rows):
    """The rows of all domains together, from their counts."""
    together = []
    for method, kind, threshold in dict.fromkeys((row["method"], row["kind"], row["threshold"]) for row in rows):
        own = [row for row in rows if (row["method"], row["kind"], row["threshold"]) == (method, kind, threshold)]
        names = ("sentences", "gold", "answers", "right", "pairs with one relation in both directions")
        total = {name: sum(row[name] for row in own) for name in names}
        together.append({"domain": "all", "method": method, "kind": kind, "threshold": threshold, **total,
                         **scores_of(total)})  # fmt: skip
    return together


def table(rows):
    """Method by kind and threshold, of all domains together; the F1 of each domain beside it."""
    domains = list(dict.fromkeys(row["domain"] for row in rows if row["domain"] != "all"))
    found = {(row["domain"], row["method"], row["kind"], row["threshold"]): row for row in rows}
    lines = []
    for (domain, method, kind, threshold), row in found.items():
        redundant = kind == "typed entities" and method.endswith("one direction")
        if domain != "all" or redundant or (method == "none" and kind == "typed entities"):
            continue
        numbers = [f"{row[name]:.3f}" for name in NUMBERS]
        others = [f"{found[one, method, kind, threshold]['f1']:.3f}" for one in domains]
        lines.append([kind, method, f"{threshold:g}", str(row["answers"]), *numbers, *others])
    heads = ["kind", "method", "threshold", "answers", *NUMBERS, *(f"F1, {one}" for one in domains)]
    return markdown_table(heads, sorted(lines, key=lambda line: KINDS.index(line[0])))


def main(argv=None):
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="CROSSRE", help="folder with ai-test.json, ...")
    parser.add_argument("--json", required=True, metavar="FILE", help="for the rows")
    parser.add_argument("--model", default=MODEL, help=f"folder or Hub name (default {MODEL})")
    parser.add_argument("--domains", nargs="+", default=["ai", "politics", "science"])
    parser.add_argument("--split", default="test", choices=("train", "dev", "test"))
    parser.add_argument("--limit", type=int, help="sentences of each domain, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ends",
        choices=("roles", "types"),
        default="roles",
        help="read of a relation's head and tail (default roles)",
    )
    parser.add_argument("--thresholds", type=float, nargs="+", default=list(THRESHOLDS))
    parser.add_argument("--batch_size", type=int, default=32, help="marked texts at a time (default 32)")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--summary", action="store_true", help="print the table of FILE and run nothing")
    flags = parser.parse_args(argv)
    if flags.summary:
        with open(flags.json, encoding="utf-8") as file:
            rows = json.load(file)["rows"]
        print(table(rows))
        return rows
    if flags.data is None:
        parser.error("--data: needed")
    if flags.limit is not None and flags.limit < 1:
        parser.error(f"--limit must be at least 1, got {flags.limit}")
    disable_progress_bar()
    set_verbosity_error()
    torch.set_num_threads(flags.num_threads)
    model, processor = load_model(flags.model, flags.device, dtype=flags.dtype)
    rows = [row for domain in flags.domains for row in measure_domain(flags, model.eval(), processor, domain)]
    rows += all_domains(rows)
    content = {
        "model": flags.model, "split": flags.split, "limit": flags.limit, "seed": flags.seed, "ends": flags.ends,
        "dtype": str(model.dtype).removeprefix("torch."), "processor": processor_name(),
        "machine": machine(flags.device), "versions": versions(), "rows": rows,
    }  # fmt: skip
    with open(flags.json, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
