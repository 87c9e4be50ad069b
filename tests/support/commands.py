"""Commands of `mgvmoe` in this process."""

from modeling_mgvmoe.cli.main import main


def run(capsys, *words):
    """Exit code, standard output and standard error of a command in this process."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    return (code, *capsys.readouterr())
