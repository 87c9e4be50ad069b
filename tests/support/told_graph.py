"""A graph of two posts whose answers are told by hand."""

from tests.support.graph_data import png

# Two posts, the first with an image; "Kelo" and "KELO's" are one entity, and Mura is rejected once.
POSTS = [
    {"id": "a b/1", "text": 'Kelo met "Mura"\n\\ é', "image": {"bytes": png()}, "mentions": [[0, 4], [10, 14]]},
    {"id": "..", "text": "KELO's boat, Mura", "image": None, "mentions": [[0, 6], [13, 17]]},
    {"id": "3", "text": "nobody", "image": None, "mentions": []},
]  # fmt: skip

ANSWERS = {
    "a b/1": (
        [("boat", 0.75, (("boat", 0.75), ("bird", 0.25))), ("bird", 0.5, (("bird", 0.5), ("boat", 0.5)))],
        [(0, 1, "greets", 0.5), (1, 0, "chases", 0.625)],
    ),
    "..": (
        [("bird", 0.75, (("bird", 0.75), ("boat", 0.25))), (None, 0.5, (("boat", 0.5), ("bird", 0.25)))],
        [(0, 1, "greets", 1.0)],
    ),
    "3": ([], []),
}


def told(posts):
    """Answers by hand."""
    found = []
    for post in posts:
        mentions, relations = ANSWERS[post["id"]]
        found.append(
            {
                "mentions": [
                    {
                        "start": start, "end": end, "text": post["text"][start:end], "label": label, "score": score,
                        "scores": [{"label": name, "score": own} for name, own in scores],
                    }
                    for (start, end), (label, score, scores) in zip(post["mentions"], mentions, strict=True)
                ],
                "relations": [
                    {"head": head, "tail": tail, "label": label, "score": score, "scores": []}
                    for head, tail, label, score in relations
                ],
            }
        )  # fmt: skip
    return found
