"""Takes each fix of the replay's edge cases out of the C++ core and demands that the edge case's test fails.

    python tests/mutations/run.py              every mutation: ten to thirty seconds each
    python tests/mutations/run.py -k 'case 5'  those whose text contains "case 5"
    python tests/mutations/run.py --oracle     also asks whether the long streams beside the oracle notice

It copies the sources to a temporary folder, builds the extension there once and runs the tests on it, which
must pass. Then, one mutation at a time, it replaces pieces of the copy (each piece must occur exactly once,
so a mutation that no longer fits the code is reported rather than skipped), builds again and runs the one
test: a Python one over both storages, or one of the core's own under AddressSanitizer, whose buffers have
storage delta. The repository itself is only read. The exit status is 1 if any mutation survives. It needs pybind11
where it runs (`pip install pybind11`).

A test that fails, crashes or runs past its time limit has noticed the mutation. One that cannot be collected
has not: that is an error of this script.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
EDGE_CASES = "tests/replay/test_replay_edge_cases.py"
ORACLE = "tests/replay/test_replay_oracle.py::test_long_streams_wrap_many_times"
TEST_LIMIT_S = 120
SOUND_LIMIT_S = 600
# Where the core's tests of files write them: what is synced again and again should not wait for a disk.
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
ORACLE_LIMIT_S = 240

# Runs pytest on the extension of the copy: an editable install would otherwise be found before PYTHONPATH.
BOOTSTRAP = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, sys.argv[1])
import fastdqn._core
if not fastdqn._core.__file__.startswith(sys.argv[1]):
    sys.exit(f"wrong extension: {fastdqn._core.__file__}")
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Edit:
    """One replacement in one file of csrc/; `old` must occur exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """What is taken out, by which edits, and the test that must notice.

    Attributes:
        test: The name of a test of `EDGE_CASES`, or "PROGRAM.cpp::NAME" of one of tests/cpp/.
    """

    case: str
    fault: str
    edits: tuple[Edit, ...]
    test: str

    @property
    def is_cpp(self) -> bool:
        """Whether the test is one of the core's own."""
        return ".cpp::" in self.test


def one(case: str, fault: str, test: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(case, fault, (Edit(file, old, new),), test)


LANE, REPLAY, N_STEP = "src/lane.cpp", "src/replay.cpp", "src/n_step.cpp"
RING, SAMPLER, TREE = "src/frame_ring.cpp", "src/sampler.cpp", "src/sum_tree.cpp"
CODEC, DELTA_RING, FILES = "src/delta_codec.cpp", "src/delta_ring.cpp", "src/replay_snapshot.cpp"

COPIES = (
    "while (copies < count && std::memcmp(frames, frames + copies * frame_bytes, frame_bytes) == 0) ++copies;"
)
PADDING = "return {false, stack - leading_copies(given, stack, frame_bytes)};"
FLAGS = "(step.terminated ? Transition::kTerminated : 0)"
NEXT_DISTANCE = "record.next_distance = static_cast<std::uint8_t>(current().newest - from.newest);"
TREE_SET = """  for (std::size_t i = 0; i < indices.size(); ++i) leaves()[indices[i]] = weights[i];
  std::uint64_t span = kArity;  // leaves below a node
  for (std::size_t level = 1; level < levels_.size(); ++level, span *= kArity) {
    for (std::size_t i = 0; i < indices.size(); ++i) {
      const std::uint64_t node = indices[i] / span;
      if (i == 0 || node != indices[i - 1] / span) recompute(level, node);
    }
  }
"""
TREE_SET_BY_DIFFERENCE = """  for (std::size_t i = 0; i < indices.size(); ++i) {
    const double difference = weights[i] - leaves()[indices[i]];
    leaves()[indices[i]] = weights[i];
    std::uint64_t span = kArity;
    for (std::size_t level = 1; level < levels_.size(); ++level, span *= kArity) {
      sums(level)[indices[i] / span] += difference;
    }
  }
"""
RANK = "const std::uint64_t rank = random.below(counter + i, total);"

MUTATIONS = [
    Mutation(
        "case 1",
        "autoreset rows are stored as transitions",
        (
            Edit(REPLAY, "bool begins = is_reset_row(lane);", "bool begins = false;"),
            Edit(
                LANE,
                "if (record.ends_episode()) cursors_.phase = Phase::kDone;",
                "cursors_.phase = record.ends_episode() ? Phase::kDone : Phase::kOpen;",
            ),
        ),
        "test_case_1_autoreset_row_is_never_sampled",
    ),
    one(
        "case 1",
        "the autoreset row is found by its position in the call",
        "test_case_1_autoreset_row_belongs_to_the_env_that_was_done",
        REPLAY,
        "bool begins = is_reset_row(lane);",
        "bool begins = is_reset_row(lanes_[row]);",
    ),
    one(
        "case 2",
        "missing older frames are zero-filled",
        "test_case_2_stacks_at_boundaries_are_the_ones_given",
        RING,
        "std::memcpy(out, frame(oldest), frame_bytes());",
        "std::memset(out, 0, frame_bytes());",
    ),
    one(
        "case 2",
        "every new episode repeats its first frame",
        "test_case_2_stacks_at_boundaries_are_the_ones_given",
        LANE,
        "  store(given, intake, written);\n  cursors_.phase = Phase::kOpen;",
        "  store(given, intake, written);\n  cursors_.depth = 0;\n  cursors_.phase = Phase::kOpen;",
    ),
    one(
        "case 2",
        "a stack is taken to continue the last one unseen",
        "test_case_2_stacks_of_any_wrapper_are_kept_as_given",
        LANE,
        "if (has_previous && older_match()) {",
        "if (has_previous) {",
    ),
    one(
        "case 2",
        "only the newest older frame is compared",
        "test_case_2_stacks_of_any_wrapper_are_kept_as_given",
        LANE,
        "for (std::uint32_t i = 0; i + 1 < stack; ++i) {",
        "for (std::uint32_t i = stack - 2; i + 1 < stack; ++i) {",
    ),
    one(
        "case 2",
        "padding in front of a stack is stored frame by frame",
        "test_case_2_padded_first_stacks_cost_one_frame_more",
        LANE,
        PADDING,
        "return {false, leading_copies(given, stack, frame_bytes) == stack ? 0 : stack - 1};",
    ),
    one(
        "case 2",
        "a padded stack is taken for copies of its newest frame",
        "test_case_2_padded_first_stacks_cost_one_frame_more",
        LANE,
        PADDING,
        "return {false, stack - 1 - leading_copies(given, std::max(stack, 2U) - 1, frame_bytes)};",
    ),
    one(
        "case 2",
        "a copy of the oldest frame is padding wherever it is",
        "test_case_2_only_copies_in_front_are_padding",
        LANE,
        COPIES,
        """for (std::uint32_t i = 1; i < count; ++i) {
    copies += std::memcmp(frames, frames + i * frame_bytes, frame_bytes) == 0;
  }""",
    ),
    one(
        "case 2",
        "a padded first stack of two frames is blamed on a wrapper",
        "test_case_2_padded_first_stacks_cost_one_frame_more",
        REPLAY,
        "return options_.stack > 2 && intake.whole(options_.stack);",
        "return intake.whole(options_.stack);",
    ),
    one(
        "case 3",
        "a truncated row bootstraps from the reset frame",
        "test_case_3_truncation_bootstraps_from_the_true_last_observation",
        LANE,
        NEXT_DISTANCE,
        NEXT_DISTANCE.replace("from.newest)", "from.newest + (step.truncated ? 1 : 0))"),
    ),
    one(
        "case 3",
        "a truncated row's next observation is its observation",
        "test_case_3_truncation_bootstraps_from_the_true_last_observation",
        LANE,
        NEXT_DISTANCE,
        NEXT_DISTANCE.replace("from.newest)", "from.newest - (step.truncated ? 1 : 0))"),
    ),
    one(
        "case 3",
        "a truncation counts as terminal",
        "test_case_3_truncation_bootstraps_from_the_true_last_observation",
        N_STEP,
        "step.terminated() ? 0.0",
        "step.ends_episode() ? 0.0",
    ),
    one(
        "case 3",
        "same_step: the reset observation is the next observation",
        "test_case_3_same_step_truncation_bootstraps_from_the_final_observation",
        REPLAY,
        "const std::uint8_t* next = begins ? stack_at(rows.final_observation, row) : given;",
        "const std::uint8_t* next = given;",
    ),
    one(
        "case 3",
        "begin leaves an open episode open",
        "test_case_3_begin_on_an_open_episode_truncates_it",
        LANE,
        "if (cursors_.transitions > 0 && !transitions_",
        "if (false && !transitions_",
    ),
    one(
        "case 3",
        "terminated and truncated at once counts as truncated",
        "test_case_3_game_over_at_the_step_limit_is_terminal",
        LANE,
        FLAGS,
        FLAGS.replace("step.terminated ?", "step.terminated && !step.truncated ?"),
    ),
    one(
        "case 4",
        "rows with open windows are sampled",
        "test_case_4_open_windows_are_not_sampled",
        LANE,
        "count >= options_.n_step ? count - options_.n_step + 1 : 0;\n  cursors_.closed =",
        "count;\n  cursors_.closed =",
    ),
    one(
        "case 4",
        "the newest row is withheld",
        "test_case_4_open_windows_are_not_sampled",
        LANE,
        "count >= options_.n_step ? count - options_.n_step + 1 : 0;\n  cursors_.closed =",
        "count >= options_.n_step ? count - options_.n_step : 0;\n  cursors_.closed =",
    ),
    one(
        "case 5",
        "rows stay when their frames are overwritten",
        "test_case_5_rows_leave_before_their_frames_are_overwritten",
        LANE,
        "observation(cursors_.first).oldest() < guarded",
        "observation(cursors_.first).oldest() + 4 < guarded",
    ),
    one(
        "case 5",
        "only the newest frame of a stack must survive",
        "test_case_5_rows_leave_before_their_frames_are_overwritten",
        LANE,
        "observation(cursors_.first).oldest() < guarded",
        "observation(cursors_.first).newest < guarded",
    ),
    one(
        "case 5",
        "rows stay one frame too long",
        "test_case_5_rows_leave_before_their_frames_are_overwritten",
        LANE,
        "observation(cursors_.first).oldest() < guarded",
        "observation(cursors_.first).oldest() + 1 < guarded",
    ),
    one(
        "case 5",
        "guard frames are not kept",
        "test_case_5_rows_leave_before_their_frames_are_overwritten",
        LANE,
        "frames_->horizon(options_.guard_frames);\n  cursors_.first = std::max",
        "frames_->horizon();\n  cursors_.first = std::max",
    ),
    one(
        "case 5",
        "a run of frames does not wrap at the ring's end",
        "test_case_5_rows_leave_before_their_frames_are_overwritten",
        RING,
        "memory_, (count - before_wrap) * bytes",
        "memory_ + bytes, (count - before_wrap) * bytes",
    ),
    one(
        "case 5",
        "gather does not ask whether frames were overwritten",
        "test_case_5_a_plan_outlived_by_its_frames_is_refused",
        REPLAY,
        "if (place.sequence < lanes_[place.lane].intact()) {",
        "if (false && place.sequence < lanes_[place.lane].intact()) {",
    ),
    one(
        "case 6",
        "the last n - 1 starts of an episode are dropped",
        "test_case_6_n_step_windows_at_an_episode_end",
        LANE,
        "cursors_.closed = episode_ended ? count : std::max(cursors_.closed, whole);",
        "(void)episode_ended;\n  cursors_.closed = std::max(cursors_.closed, whole);",
    ),
    one(
        "case 6",
        "an episode shorter than n leaves nothing",
        "test_case_6_an_episode_shorter_than_n",
        LANE,
        "cursors_.closed = episode_ended ? count : std::max(cursors_.closed, whole);",
        "cursors_.closed = episode_ended && whole > 0 ? count : std::max(cursors_.closed, whole);",
    ),
    one(
        "case 6",
        "windows run on into the next episode",
        "test_case_6_n_step_windows_at_an_episode_end",
        N_STEP,
        "if (k + 1 == n() || step.ends_episode()) {",
        "if (k + 1 == n()) {",
    ),
    one(
        "case 6",
        "windows run on past a truncation alone",
        "test_case_6_n_step_windows_at_an_episode_end",
        N_STEP,
        "if (k + 1 == n() || step.ends_episode()) {",
        "if (k + 1 == n() || step.terminated()) {",
    ),
    one(
        "case 6",
        "a shorter window is discounted by gamma^n",
        "test_case_6_n_step_windows_at_an_episode_end",
        N_STEP,
        "0.0 : powers_[k + 1];",
        "0.0 : powers_[n()];",
    ),
    one(
        "case 6",
        "the last reward of an episode is lost",
        "test_case_6_n_step_windows_at_an_episode_end",
        N_STEP,
        "reward += powers_[k] * static_cast<double>(step.reward);",
        "if (!step.ends_episode()) reward += powers_[k] * static_cast<double>(step.reward);",
    ),
    one(
        "case 7",
        "a late priority goes to the row that has the slot now",
        "test_case_7_a_priority_for_an_overwritten_row_is_dropped",
        REPLAY,
        "if (!lanes_[place.lane].is_sampleable(place.sequence)) continue;",
        "",
    ),
    one(
        "case 8",
        "a batch larger than the rows there are is refused",
        "test_case_8_one_valid_row_fills_any_batch",
        REPLAY,
        "  places_.resize(batch_size);",
        '  if (batch_size > sampleable()) throw std::runtime_error("few");\n  places_.resize(batch_size);',
    ),
    Mutation(
        "case 8",
        "slots are tried until one is good, even where none is",
        (
            Edit(REPLAY, "if (sampleable() == 0) {", "if (false) {"),
            Edit(
                SAMPLER,
                RANK,
                """for (std::uint64_t tried = 0;; ++tried) {
      const std::uint64_t at = random.below(counter + i + tried, lanes.size());
      if (lanes[at].sampleable() > 0) break;
    }
    """
                + RANK,
            ),
        ),
        "test_case_8_one_valid_row_fills_any_batch",
    ),
    one(
        "case 9",
        "alpha is left out",
        "test_case_9_draws_are_in_proportion_to_priority_to_the_alpha",
        SAMPLER,
        "weights_.push_back(std::pow(priorities[i], alpha_));",
        "weights_.push_back(priorities[i]);",
    ),
    one(
        "case 9",
        "draws are stratified",
        "test_case_9_draws_are_in_proportion_to_priority_to_the_alpha",
        SAMPLER,
        "random.uniform(counter + i) * total",
        "(static_cast<double>(i) + random.uniform(counter + i)) / static_cast<double>(out.size()) * total",
    ),
    one(
        "case 9",
        "a zero priority gets a floor",
        "test_case_9_zero_priority_is_never_drawn",
        SAMPLER,
        "weights_.push_back(std::pow(priorities[i], alpha_));",
        "weights_.push_back(std::pow(priorities[i], alpha_) + 1e-6);",
    ),
    one(
        "case 9",
        "of a repeated row the first priority counts",
        "test_case_9_the_last_of_a_repeated_row_counts",
        TREE,
        "for (std::size_t i = 0; i < indices.size(); ++i) leaves()[indices[i]] = weights[i];",
        "for (std::size_t i = indices.size(); i-- > 0;) leaves()[indices[i]] = weights[i];",
    ),
    one(
        "case 9",
        "sums are kept by adding differences",
        "test_case_9_sums_do_not_drift",
        TREE,
        TREE_SET,
        TREE_SET_BY_DIFFERENCE,
    ),
    one(
        "case 9",
        "the largest priority never falls",
        "test_case_9_the_largest_priority_can_fall",
        TREE,
        "most[4] = {0.0, 0.0, 0.0, 0.0};",
        "most[4] = {maxima(level)[node], 0.0, 0.0, 0.0};",
    ),
    one(
        "case 10",
        "an env is chosen first, then one of its rows",
        "test_case_10_a_lagging_env_is_sampled_by_its_rows",
        SAMPLER,
        RANK,
        """std::uint64_t chosen = random.below(3 * (counter + i) + (1ULL << 40), lanes.size());
    while (lanes[chosen].sampleable() == 0) chosen = (chosen + 1) % lanes.size();
    const std::uint64_t rank = ends_[chosen] - 1 - random.below(counter + i, lanes[chosen].sampleable());""",
    ),
    one(
        "delta codec",
        "only the second row of a key frame is put together again",
        "test_delta_codec.cpp::every_record_decodes_to_its_frame",
        CODEC,
        "at < frame_bytes_; at += row_bytes_) {",
        "at < frame_bytes_ && at <= row_bytes_; at += row_bytes_) {",
    ),
    one(
        "delta codec",
        "a key frame is decoded upon the frame before",
        "test_delta_codec.cpp::every_record_decodes_to_its_frame",
        CODEC,
        "      std::memset(working, 0, working_bytes());\n",
        "",
    ),
    one(
        "delta codec",
        "a frame that repeats the one before is written as changes, of which there are none",
        "test_delta_codec.cpp::what_equals_the_frame_before_takes_a_byte",
        CODEC,
        "if (out[0] == DeltaCodec::kRepeat) return 1;",
        "if (out[0] == DeltaCodec::kRepeat) out[0] = DeltaCodec::kDelta;",
    ),
    one(
        "delta codec",
        "noise is written as changes, longer than the frame",
        "test_delta_codec.cpp::what_does_not_shrink_is_kept_raw",
        CODEC,
        "if (length >= 1 + difference.frame_bytes) return raw();",
        "",
    ),
    one(
        "delta codec",
        "the fast walk leaves out what lies behind a segment of words that are all the same",
        "test_delta_codec.cpp::random_bytes_are_refused_or_decoded_within_bounds",
        CODEC,
        "made.place[bits][w] = static_cast<std::int8_t>(here ? next++ : -128);",
        "made.place[bits][w] = static_cast<std::int8_t>(here && bits != 255 ? next++ : -128);",
    ),
    one(
        "delta file",
        "bits of a mask behind the frame's last segment are taken",
        "test_delta_codec.cpp::check_refuses_what_no_encoder_writes",
        CODEC,
        "if (segments_ % 8 != 0 && record[mask_bytes()] >> segments_ % 8 != 0) return 0;",
        "",
    ),
    one(
        "delta file",
        "words behind the frame's end are taken",
        "test_delta_codec.cpp::check_refuses_what_no_encoder_writes",
        CODEC,
        "if (last_changed && record[first_words + changed - 1] >> last_words != 0) return 0;",
        "(void)last_changed, (void)last_words;",
    ),
    one(
        "delta file",
        "a record may be longer than what is left of its group",
        "test_delta_codec.cpp::check_refuses_what_no_encoder_writes",
        CODEC,
        "return length <= available && length < longest_record() ? length : 0;",
        "return length < longest_record() ? length : 0;",
    ),
    one(
        "delta file",
        "a group may begin with what changes",
        "test_delta_codec.cpp::check_refuses_what_no_encoder_writes",
        CODEC,
        "if (first && (record[0] == kDelta || record[0] == kRepeat)) return 0;",
        "(void)first;",
    ),
    one(
        "delta ring",
        "a key frame goes with its slot, though its deltas live",
        "test_delta_ring.cpp::a_key_frame_that_is_gone_still_decodes_the_live_ones",
        DELTA_RING,
        "group(begin_ + 1).first <= gone) ++begin_;",
        "group(begin_).first < gone) ++begin_;",
    ),
    one(
        "delta ring",
        "a group goes on past the end of the memory",
        "test_delta_ring.cpp::frames_of_any_kind_come_back_through_many_turns",
        DELTA_RING,
        "if (begin_ == end_ || !fits(head_)) return true;",
        "if (begin_ == end_) return true;",
    ),
    one(
        "delta ring",
        "the memory has no room for frames of the oldest group that are gone",
        "test_delta_ring.cpp::the_largest_groups_of_a_file_have_room",
        DELTA_RING,
        "(ring + longest_group + 2) * codec.longest_record()",
        "(ring + 2) * codec.longest_record()",
    ),
    one(
        "delta ring",
        "pages are given back from where the oldest group begins, not to there",
        "test_delta_ring.cpp::pages_that_are_given_back_were_free",
        DELTA_RING,
        "memory_.release(head_ <= tail ? std::max(released_, head_) : released_, tail);",
        "memory_.release(released_, tail + 4096);",
    ),
    one(
        "delta ring",
        "pages are given back though newer records have come to lie there",
        "test_delta_ring.cpp::pages_that_are_filled_again_are_not_given_back",
        DELTA_RING,
        "memory_.release(head_ <= tail ? std::max(released_, head_) : released_, tail);",
        "memory_.release(released_, tail);",
    ),
    one(
        "delta ring",
        "no page is ever given back",
        "test_delta_ring.cpp::pages_that_are_given_back_were_free",
        DELTA_RING,
        "if (begin_ != before) release_pages();",
        "(void)before;",
    ),
    one(
        "delta ring",
        "the later of two stacks that lie groups apart is not read",
        "test_delta_ring.cpp::frames_of_any_kind_come_back_through_many_turns",
        DELTA_RING,
        "    copy_stack(next, stack, next_out);\n    return;",
        "    return;",
    ),
    one(
        "delta ring",
        "the group behind another is looked for behind it, where the memory has ended between the two, too",
        "test_delta_ring.cpp::frames_of_any_kind_come_back_through_many_turns",
        DELTA_RING,
        "      record = memory_.data() + group(ordinal).at;\n    }",
        "    }",
    ),
    one(
        "delta ring",
        "the low half of a group's number is taken for the whole",
        "test_delta_ring.cpp::groups_are_found_when_their_numbers_pass_32_bits",
        DELTA_RING,
        "return begin_ + static_cast<std::uint32_t>(",
        "return static_cast<std::uint32_t>(begin_) + static_cast<std::uint32_t>(",
    ),
    one(
        "delta file",
        "a group may have more frames than any has",
        "test_delta_ring.cpp::numbers_from_anywhere_are_refused",
        DELTA_RING,
        "if (first >= end || end - first > longest_group_) return",
        "if (first >= end) return",
    ),
    one(
        "delta file",
        "a group may have more bytes than its frames take raw",
        "test_delta_ring.cpp::numbers_from_anywhere_are_refused",
        DELTA_RING,
        "if (bytes == 0 || bytes > (end - first) * codec_.longest_record()) return",
        "if (bytes == 0) return",
    ),
    one(
        "delta file",
        "the oldest frames may be in no group",
        "test_delta_ring.cpp::numbers_from_anywhere_are_refused",
        DELTA_RING,
        "if (extents[0].first > horizon()) return",
        "if (false) return",
    ),
    one(
        "delta file",
        "records are taken unread",
        "test_delta_ring.cpp::records_from_anywhere_are_refused",
        DELTA_RING,
        "&group(ordinal).raw);\n    if (!reason.empty()) return",
        "&group(ordinal).raw);\n    if (false) return",
    ),
    one(
        "delta file",
        "bytes behind a group's last record are taken",
        "test_delta_ring.cpp::bytes_behind_the_last_record_are_refused",
        DELTA_RING,
        """return left == 0 ? "" : "bytes behind its last record";""",
        """return "";""",
    ),
    one(
        "delta file",
        "a transition may point before the first frame",
        "test_snapshot.cpp::numbers_that_lead_outside_are_refused_though_their_checksums_fit",
        LANE,
        "if (obs.newest >= written || obs.depth > obs.newest",
        "if (obs.depth > obs.newest",
    ),
    one(
        "delta file",
        "memory is made for as many groups as a file names, however short it is",
        "test_snapshot.cpp::a_file_is_not_believed_how_many_groups_it_has",
        FILES,
        "if (count > room) file.refuse(",
        "if (false) file.refuse(",
    ),
]


class Copy:
    """A copy of the sources, with its own build folder."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("csrc", "fastdqn", "tests/cpp"):
            shutil.copytree(
                REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "build")
            )
        shutil.copy(REPOSITORY / "CMakeLists.txt", root)
        pybind11 = run([sys.executable, "-m", "pybind11", "--cmakedir"]).stdout.strip()
        cmake = Path(sys.executable).with_name("cmake")
        self.cmake = str(cmake) if cmake.exists() else "cmake"
        configure = [self.cmake, "-S", str(root), "-B", str(root / "build"), "-DSKBUILD=2"]
        configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
        run([*configure, f"-Dpybind11_DIR={pybind11}"])
        run([self.cmake, "--preset", "asan"], cwd=root / "csrc")

    def build(self, test: str) -> None:
        """Build what runs a test: a program, or the extension, put where the package of this copy finds it."""
        jobs = ["-j", str(os.cpu_count() or 1)]
        if ".cpp::" in test:
            run([self.cmake, "--build", str(self.root / "build/asan"), *jobs, "--target", program_of(test)])
            return
        run([self.cmake, "--build", str(self.root / "build"), *jobs])
        (library,) = (self.root / "build").glob("**/_core*.so")
        shutil.copy(library, self.root / "fastdqn")

    def apply(self, mutation: Mutation) -> None:
        """Make the mutation's edits in this copy."""
        for edit in mutation.edits:
            path = self.root / "csrc" / edit.file
            text = path.read_text()
            if text.count(edit.old) != 1:
                raise SystemExit(
                    f"{mutation.case}, {mutation.fault}: expected once in {edit.file}, "
                    f"found {text.count(edit.old)} times:\n{edit.old}"
                )
            path.write_text(text.replace(edit.old, edit.new))

    def revert(self, mutation: Mutation) -> None:
        """Take the mutation's files from the repository again."""
        for edit in mutation.edits:
            shutil.copyfile(REPOSITORY / "csrc" / edit.file, self.root / "csrc" / edit.file)

    def cpp_verdict(self, test: str, limit_s: int) -> str:
        """Run a program of the core's tests, of which the named one (all for "") is asked for; see `verdict`."""
        program = self.root / "build/asan/tests" / program_of(test)
        try:
            done = subprocess.run(
                [str(program)],
                capture_output=True,
                text=True,
                timeout=limit_s,
                env={**os.environ, "FASTDQN_TEST_STORAGE": "delta", "TMPDIR": str(MEMORY)},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hung"
        if f"FAILED {test.split('::')[1]}" in done.stdout:
            return "failed"
        return "passed" if "tests, " in done.stdout else "crashed"

    def verdict(self, test: str, limit_s: int) -> str:
        """Run a test on this copy's extension: "passed", "failed", "crashed" or "hung"."""
        command = [sys.executable, "-c", BOOTSTRAP, str(self.root)]
        command += ["-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
        command += [f"--rootdir={REPOSITORY}", f"--config-file={REPOSITORY / 'pyproject.toml'}"]
        try:
            done = subprocess.run(
                [*command, str(REPOSITORY / test)],
                capture_output=True,
                text=True,
                timeout=limit_s,
                cwd=self.root,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hung"
        if done.returncode < 0:
            return "crashed"
        if done.returncode not in (0, 1) or (done.returncode == 1 and "failed" not in done.stdout.lower()):
            raise SystemExit(f"{test} did not run:\n{done.stdout}{done.stderr}")
        return "failed" if done.returncode else "passed"

    def notice(self, mutation: Mutation) -> str:
        """Build, and run the test that must notice."""
        self.build(mutation.test)
        if mutation.is_cpp:
            return self.cpp_verdict(mutation.test, TEST_LIMIT_S)
        return self.verdict(f"{EDGE_CASES}::{mutation.test}", TEST_LIMIT_S)

    def check_sound(self, mutations: list[Mutation]) -> None:
        """Demand that the tests of these mutations pass as long as there is none."""
        if not all(mutation.is_cpp for mutation in mutations):
            self.build(EDGE_CASES)
            if self.verdict(EDGE_CASES, SOUND_LIMIT_S) != "passed":
                raise SystemExit(f"{EDGE_CASES} fails without any mutation")
        for program in sorted({program_of(mutation.test) for mutation in mutations if mutation.is_cpp}):
            self.build(f"{program}.cpp::")
            verdict = self.cpp_verdict(f"{program}.cpp::", SOUND_LIMIT_S)
            if verdict != "passed":
                raise SystemExit(f"{program} has {verdict} without any mutation")


def program_of(test: str) -> str:
    """The program that has one of the core's own tests."""
    return test.split(".cpp::")[0]


def run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "-k", default="", metavar="TEXT", help="only mutations whose description contains TEXT"
    )
    parser.add_argument("--oracle", action="store_true", help="also run the long streams beside the oracle")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.k in f"{m.case} {m.fault} {m.test}"]
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="fastdqn-mutations-") as folder:
        copy = Copy(Path(folder).resolve())
        copy.check_sound(chosen)
        print("| edge case | taken out | test | noticed |" + (" oracle |" if options.oracle else ""))
        print("|---|---|---|---|" + ("---|" if options.oracle else ""))
        for mutation in chosen:
            copy.apply(mutation)
            verdict = copy.notice(mutation)
            survivors += verdict == "passed"
            row = f"| {mutation.case} | {mutation.fault} | {mutation.test} | {shown(verdict)} |"
            if options.oracle:
                copy.build(ORACLE)
                row += f" {shown(copy.verdict(ORACLE, ORACLE_LIMIT_S))} |"
            print(row, flush=True)
            copy.revert(mutation)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations noticed")
    return 1 if survivors else 0


def shown(verdict: str) -> str:
    """A verdict as the table says it."""
    return "NO" if verdict == "passed" else "yes" if verdict == "failed" else f"yes ({verdict})"


if __name__ == "__main__":
    sys.exit(main())
