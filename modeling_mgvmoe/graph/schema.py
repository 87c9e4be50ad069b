"""The four tables of an extracted graph, as Arrow schemas.

A row of the input becomes a row of `posts` or a row of `errors`, never both, never none. `row` is its number in the
input, from 0; it joins the tables.
"""

from __future__ import annotations

import pyarrow as pa

TABLES = ("posts", "mentions", "relations", "errors")
# Why a row of the input could not be extracted.
ERROR_KINDS = ("format", "id", "duplicate", "text", "mentions", "picture", "extraction")

# What is said of a mention or a pair.
ANSWER = ("label", "score", "scores", "levels", "deviation", "mutual_information")


def scores_type() -> pa.DataType:
    """Labels with scores. `deviation` is null unless samples were drawn."""
    fields = [("label", pa.string()), ("score", pa.float32()), ("deviation", pa.float32())]
    return pa.list_(pa.struct(fields))


def table_schemas(feature_size: int | None = None) -> dict[str, pa.Schema]:
    """Columns of each table.

    Args:
        feature_size: H', numbers of a post's picture features; `None`: they were not asked for.

    Returns:
        By name of the table:

        - posts: `row`; `id`, as given or "row-N"; `text`; `has_picture`; `picture_error`, why there is no picture
          though one was named; `num_mentions`, `num_relations`; with `feature_size` also `picture_features` (H',),
          null for a post without picture.
        - mentions: `row`, `post_id`; `mention`, its number in the post; `start`, `end`, characters of the text, the
          end exclusive; `text`; `label`, null if all were rejected; `score` of the label, or of the best one that was
          rejected; `scores`, the ranking, the best label first; `levels`, for labels that are paths the score of each
          level of the label; `deviation` of the score and `mutual_information`, null unless samples were drawn. All
          of these are null if no types were asked for.
        - relations: `row`, `post_id`; `head`, `tail`, numbers of mentions; and `label` to `mutual_information` as of
          mentions. Pairs that were rejected have no row.
        - errors: `row`; `id`, null where it could not be read; `kind`, one of [`ERROR_KINDS`]; `reason` in words.
    """
    post = [("row", pa.int64()), ("post_id", pa.string())]
    answer = [
        ("label", pa.string()),
        ("score", pa.float32()),
        ("scores", scores_type()),
        ("levels", scores_type()),
        ("deviation", pa.float32()),
        ("mutual_information", pa.float32()),
    ]
    posts = [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("has_picture", pa.bool_()),
        ("picture_error", pa.string()),
        ("num_mentions", pa.int32()),
        ("num_relations", pa.int32()),
    ]
    if feature_size is not None:
        posts.append(("picture_features", pa.list_(pa.float32(), feature_size)))
    mention = [("mention", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("text", pa.string())]
    return {
        "posts": pa.schema(posts),
        "mentions": pa.schema([*post, *mention, *answer]),
        "relations": pa.schema([*post, ("head", pa.int32()), ("tail", pa.int32()), *answer]),
        "errors": pa.schema(
            [("row", pa.int64()), ("id", pa.string()), ("kind", pa.string()), ("reason", pa.string())]
        ),
    }
