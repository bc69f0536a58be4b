"""What a worker imports in a test: it leaves files in the temporary directory, as a compiler does."""

from __future__ import annotations

from tests.child_work import leave_files

leave_files()
