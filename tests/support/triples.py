"""N-Triples, read strictly."""

import re

# The grammar of the recommendation (https://www.w3.org/TR/n-triples/#n-triples-grammar), without blank nodes and
# languages, of which there are none.
IRI = r"<(?:[^\x00-\x20<>\"{}|^`\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*>"

STRING = r'"(?:[^\x22\x5C\x0A\x0D]|\\[tbnrf"\'\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*"'

STATEMENT = re.compile(rf"{IRI} {IRI} (?:{IRI}|{STRING}(?:\^\^{IRI})?) \.")


def parsed(path):
    import rdflib

    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            assert STATEMENT.fullmatch(line.removesuffix("\n")), line
    return rdflib.Graph().parse(path, format="nt")
