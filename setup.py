"""Puts the weights that ship into the wheel; all else is in `setup.cfg`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WEIGHTS = Path("configuration", "models", "mgvmoe-small")


class BuildWithWeights(build_py):
    """Copies the folder of weights, with the code that its links point to, to `modeling_mgvmoe/mgvmoe-small`."""

    def run(self):
        super().run()
        if not self.editable_mode:  # there it is found in the checkout
            shutil.copytree(WEIGHTS, Path(self.build_lib, "modeling_mgvmoe", WEIGHTS.name), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithWeights})
