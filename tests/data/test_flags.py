"""Flags of a command line: unknown ones, and the names that other scripts have."""

from modeling_mgvmoe.data.flags import with_our_names


def test_flags_of_transformers_scripts_are_taken():
    known = ["--model", "--dataset", "--text_model_name_or_path"]
    words = ["--model_name_or_path", "M", "--dataset-name=D", "--text_model_name_or_path", "T"]
    assert with_our_names(words, known) == ["--model", "M", "--dataset=D", "--text_model_name_or_path", "T"]
    # `train` has a flag of that very name.
    assert with_our_names(["--model_name_or_path", "M"], ["--model_name_or_path"]) == ["--model_name_or_path", "M"]
