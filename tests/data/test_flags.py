"""Flags of a command line: unknown ones, and the names that other scripts have."""

import pytest

from modeling_mgvmoe.data.flags import FlagParser, with_our_names


def test_flags_of_transformers_scripts_are_taken():
    known = ["--model", "--dataset", "--text_model_name_or_path"]
    words = ["--model_name_or_path", "M", "--dataset-name=D", "--text_model_name_or_path", "T"]
    assert with_our_names(words, known) == ["--model", "M", "--dataset=D", "--text_model_name_or_path", "T"]
    # `train` has a flag of that very name.
    assert with_our_names(["--model_name_or_path", "M"], ["--model_name_or_path"]) == ["--model_name_or_path", "M"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--text", "a"], "a command is needed before its flags: post or experts"),
     (["post", "--postz", "a"], "unrecognized arguments: --postz (did you mean --posts?)")],
)  # fmt: skip
def test_flags_without_their_command(words, told, capsys):
    parser = FlagParser()
    commands = parser.add_subparsers(required=True)
    commands.add_parser("post").add_argument("--posts")
    commands.add_parser("experts").add_argument("--dataset")
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert told in capsys.readouterr().err
