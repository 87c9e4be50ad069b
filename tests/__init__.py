"""Tests. Code of saved folders goes into a cache of this run's own: two runs at a time would write into one."""

import os
import tempfile

os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="mgvmoe-tests-")
