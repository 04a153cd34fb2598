"""That each mutation fits today's code; that it is noticed takes a build for each, which run.py does."""

from __future__ import annotations

import pytest

from tests.mutations.run import EDGE_CASES, MUTATIONS, REPOSITORY, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.case}: {mutation.fault}")
def test_each_mutation_replaces_one_place_and_names_a_test(mutation: Mutation) -> None:
    for edit in mutation.edits:
        assert (REPOSITORY / "csrc" / edit.file).read_text().count(edit.old) == 1
        assert edit.new != edit.old
    if mutation.is_cpp:
        program, name = mutation.test.split("::")
        assert f"TEST({name})" in (REPOSITORY / "tests/cpp" / program).read_text()
    else:
        assert f"def {mutation.test}(" in (REPOSITORY / EDGE_CASES).read_text()
