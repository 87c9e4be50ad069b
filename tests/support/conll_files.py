"""CoNLL files by hand."""

from modeling_mgvmoe.data.conll import read_crossner, transfer_data


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(*tagged):
    """One sentence: "Kelo/B-person sails/O" with a tab in the place of each slash."""
    return "".join(f"{word.replace('/', chr(9))}\n" for sentence in tagged for word in [*sentence.split(), ""])


def crossner_data(folder, train_domains, test_domain, label_set, seed=0):
    """The data of a transfer between domains, read and split as the command does."""
    posts, _ = read_crossner(folder, [*train_domains, test_domain])
    return transfer_data(posts, train_domains, test_domain, label_set, seed)[0]
