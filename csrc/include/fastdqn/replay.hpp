// Replay: a replay buffer for stacked frames that keeps every frame once.
//
//   fastdqn::Replay replay(options);
//   replay.begin({rows, observations}, nullptr);                   // what reset() gave
//   replay.add({rows, actions, observations, ...}, nullptr);       // what was sent, what came back
//   replay.sample(32, 1.0, batch);                                 // into memory of the caller's
//
// Every observation that is sampled equals, byte for byte, the one that was added, whatever the environment
// does: a stack's older frames are compared with what is stored, and what does not continue it is stored
// from the last copy of its oldest frame on.
//
// Units. A frame is frame_bytes() bytes; a stack is `stack` frames, oldest first. Rewards are per step; a
// discount is gamma^m times (1 - terminated), to be multiplied with the value of the next observation. A row
// names a transition for ever: row = sequence * num_envs + env, sequence counting that environment's
// transitions. A global slot is env * ring + (frame number mod ring).
//
// What can be sampled. A transition becomes sampleable when its n-step window closes: n steps from it on have
// been added, or its episode has ended (at an end up to n become sampleable at once, each with its own
// shorter window). It stops being so when the oldest frame of its observation is overwritten, or would be
// within `guard_frames` more frames. Its next observation's frames are never older.
//
// Memory. ring * num_envs * (frame_bytes + 16) bytes, reserved at construction, taken from the system as it
// fills. Under Storage::kDelta the frames take what they compress to; the number of frames that live is the same,
// however well they do, and frames that do not shrink take 2 % more than raw ones. Each episode costs one frame beside one per step, two where its first stack is padded in front; a
// stack that had to be kept whole costs `stack`.
//
// Ownership. The replay owns its memory and borrows every Span and pointer for the length of a call.
// Threads. Every public function takes the one mutex of the buffer, so any may be called from any thread at
// any time; each is atomic to the others. A sample copies its pixels under the mutex: an add waits for it.
// Exceptions. std::invalid_argument for an argument (the message begins with its name), std::runtime_error
// for a state, OutOfMemory (a std::bad_alloc). Arguments are checked before anything changes: after an
// exception the buffer is as it was.
//
// This header, span.hpp and version.hpp are the contract. What lies in detail/ may change with any version,
// but for WrittenFrame (lane.hpp) and OutOfMemory (pages.hpp), which this header hands out.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "fastdqn/detail/lane.hpp"
#include "fastdqn/detail/n_step.hpp"
#include "fastdqn/detail/pages.hpp"
#include "fastdqn/detail/random.hpp"
#include "fastdqn/detail/sampler.hpp"
#include "fastdqn/detail/snapshot.hpp"
#include "fastdqn/span.hpp"

namespace fastdqn {

// What the vector environment does after an episode ends (Gymnasium's names; EnvPool's is kNextStep).
enum class Autoreset : std::uint8_t {
  kNextStep,  // the row after a done brings the new episode's first observation; its action is ignored
  kSameStep,  // the done row brings it already; the true last one is in final_observation
  kDisabled,  // begin() starts each episode
};

// How frames lie in memory (detail/frame_ring.hpp, detail/delta_ring.hpp). What can be sampled is the same.
enum class Storage : std::uint8_t {
  kRaw,  // frame_bytes each
  kDelta,  // what changes from one to the next; for games a fifth to a seventieth of that, at .5 to .9 of the speed
};

// How sampled observations lie in memory.
enum class Layout : std::uint8_t {
  kSeparate,  // two arrays [batch, stack], for every n
  kWindow,    // one array [batch, stack + 1], of which both are views; n = 1 only; less to move
};

struct ReplayOptions {
  std::uint64_t capacity = 0;  // frame slots in all; each environment gets capacity / num_envs
  std::uint64_t num_envs = 1;
  // Of one frame, in bytes: uint8 pixels, the last axis fastest.
  std::vector<std::uint64_t> frame_shape = {84, 84};
  std::uint32_t stack = 4;   // frames an observation, 1 to 255
  std::uint32_t n_step = 1;  // steps a return, at least 1
  double gamma = 0.99;       // discount a step, 0 to 1
  double alpha = 0.0;        // exponent of the priorities, 0 to 1; 0 is uniform sampling
  Autoreset autoreset = Autoreset::kNextStep;
  Layout layout = Layout::kSeparate;
  Storage storage = Storage::kRaw;
  // Frames an environment may still add before a sampled row's pixels are lost.
  std::uint64_t guard_frames = 0;
  std::uint64_t seed = 0;

  std::uint64_t frame_bytes() const noexcept;  // the product of frame_shape, at most 2^31
};

// The options that a file was saved with: to make the buffer that can load it. Throws as Replay::load() does,
// and refuses the first version of the format, whose header could be damaged without a sign. What comes back
// is what a buffer saved; such a buffer can be larger than memory, none of which is touched before use.
ReplayOptions saved_options(const std::string& path);

// The rows of a begin(): observation is rows * stack * frame_bytes bytes; env_id has `rows` entries without
// repetition, or is nullptr for environments 0 ... rows - 1, which must then be all of them.
struct BeginRows {
  std::size_t rows = 0;
  const std::uint8_t* observation = nullptr;
  const std::int64_t* env_id = nullptr;
};

// The rows of an add(): what was sent to the environments and what came back.
struct AddRows {
  std::size_t rows = 0;
  const std::int64_t* action = nullptr;  // must fit 32 bits; ignored in an autoreset row, like reward
  const std::uint8_t* observation = nullptr;
  const float* reward = nullptr;                    // finite
  const bool* terminated = nullptr;                 // read as bytes: any but 0 is true
  const bool* truncated = nullptr;                  // the same
  const std::int64_t* env_id = nullptr;             // as in BeginRows
  const std::uint8_t* final_observation = nullptr;  // like observation; kSameStep only, read where done
};

// Where a batch goes: arrays of batch_size entries, owned by the caller. Two that share memory are refused.
// Pixels: under kSeparate obs and next_obs (batch_size * stack frames each), under kWindow only window
// (batch_size * (stack + 1)).
struct BatchView {
  std::uint8_t* obs = nullptr;
  std::uint8_t* next_obs = nullptr;
  std::uint8_t* window = nullptr;
  std::int64_t* action = nullptr;
  float* reward = nullptr;
  float* discount = nullptr;
  float* weight = nullptr;  // importance weights, the batch's largest 1; all 1 under uniform sampling
  std::int64_t* row = nullptr;
};

// The same with global slots (batch_size * stack of each, oldest first) in place of pixels.
struct PlanView {
  std::int64_t* obs_frames = nullptr;
  std::int64_t* next_frames = nullptr;
  std::int64_t* action = nullptr;
  float* reward = nullptr;
  float* discount = nullptr;
  float* weight = nullptr;
  std::int64_t* row = nullptr;
};

struct ReplayStats {
  std::uint64_t slots = 0;           // frame slots: ring * num_envs
  std::uint64_t frames = 0;          // of them, filled
  std::uint64_t frames_written = 0;  // frames ever stored
  std::uint64_t episode_frames = 0;  // of those, stored by the first observations of episodes
  std::uint64_t transitions = 0;     // ever added
  std::uint64_t sampleable = 0;      // now
  std::uint64_t episodes = 0;        // ever begun
  std::uint64_t whole_stacks = 0;    // observations ever stored whole, first ones of two frames aside
  std::uint64_t stored_bytes = 0;    // what the frames take now
  std::uint64_t key_frames = 0;  // kept without the frame before; the oldest group counts until it is gone
  std::uint64_t raw_frames = 0;  // of those, kept as they are
  std::uint64_t allocated_bytes =
      0;  // reserved for all arrays; under kDelta the frames count as stored_bytes
};

class Replay {
 public:
  // O(num_envs); reserves memory without filling it. Throws std::invalid_argument, or OutOfMemory (which
  // names capacity) where the arrays would not fit the memory that is available now.
  explicit Replay(const ReplayOptions& options);

  const ReplayOptions& options() const noexcept { return options_; }
  std::uint64_t ring() const noexcept { return ring_; }  // frame slots an environment

  // Begins an episode in each row's environment. One that is open ends as truncated at its last observation.
  // `written`, if given, is cleared and receives every frame stored. O(rows * stack * frame_bytes).
  // Returns how many stacks had to be stored whole.
  std::size_t begin(const BeginRows& rows, std::vector<WrittenFrame>* written);

  // Stores a step of each row's environment. `written` and the result as in begin().
  // O(rows * stack * frame_bytes).
  std::size_t add(const AddRows& rows, std::vector<WrittenFrame>* written);

  // Draws `batch_size` rows with replacement and writes them to `batch`. beta in [0, 1] is the exponent of
  // the importance weights. Throws std::runtime_error while nothing is sampleable.
  // O(batch_size * stack * frame_bytes).
  void sample(std::size_t batch_size, double beta, const BatchView& batch);

  // The same draw without pixels: a sample from the same state has the same rows.
  // O(batch_size * (stack + n)).
  void plan(std::size_t batch_size, double beta, const PlanView& plan);

  // Writes the pixels of planned rows to `batch` (only obs and next_obs, or window, are written). Throws
  // std::runtime_error, with nothing written, if a frame of them was overwritten since.
  void gather(Span<const std::int64_t> rows, const BatchView& batch) const;

  // Copies the frames of the global slots first_slot ... first_slot + count - 1 to `out` (count *
  // frame_bytes() bytes); slots that were never filled are zero. To fill a mirror of the store as a whole.
  // O(count * frame_bytes).
  void read_frames(std::uint64_t first_slot, std::uint64_t count, std::uint8_t* out) const;

  // Sets the priorities of sampled rows; returns how many rows were dropped because they are not sampleable
  // any more. Priorities must be finite and not negative. Under uniform sampling nothing else happens.
  // O(rows).
  std::size_t update_priorities(Span<const std::int64_t> rows, Span<const double> priorities);

  // Rows that can be sampled now. O(num_envs).
  std::uint64_t size() const;
  ReplayStats stats() const;

  // Writes the whole state to a file (see detail/snapshot.hpp): what is stored, the priorities and the random
  // stream, so that a buffer that loads it continues with the same batches. Pixels go from their place to the
  // file; other calls wait. The file appears whole or not at all, under a name that is free or a regular
  // file's; anything else there is std::invalid_argument. O(bytes stored). Throws std::system_error.
  void save(const std::string& path) const;

  // Reads such a file into this buffer, which must have the options it was saved with. The file is read
  // twice: a truncated, foreign, damaged or newer one, or one with other options, is found before anything
  // changes and thrown as std::invalid_argument ("path: ..."). Pixels go straight to their place; only
  // records and priorities (25 bytes a slot) exist twice; under kDelta the frames, too. If the disk fails in the
  // second reading, std::system_error, and the buffer is empty.
  void load(const std::string& path);

  // "" if the whole state is consistent, else what is not: for tests and debugging. O(capacity * n).
  std::string invariant_violation() const;

 private:
  struct Intakes {
    Intake observation;
    Intake final_observation;
  };
  // A transition with its n-step window folded.
  struct Pick {
    const Lane* lane;
    StackRef obs;
    StackRef next;
    NStepResult result;
    std::int32_t action;
  };

  Lane& lane_of(const std::int64_t* env_id, std::size_t row) noexcept {
    return lanes_[env_id == nullptr ? row : static_cast<std::size_t>(env_id[row])];
  }
  const std::uint8_t* stack_at(const std::uint8_t* observations, std::size_t row) const noexcept {
    return observations + row * options_.stack * frame_bytes_;
  }
  bool is_reset_row(const Lane& lane) const noexcept {
    return options_.autoreset == Autoreset::kNextStep && lane.phase() == Lane::Phase::kDone;
  }

  void check_env_ids(const std::int64_t* env_id, std::size_t rows);
  void check_add(const AddRows& rows);
  void check_add_row(const AddRows& rows, std::size_t row, const Lane& lane) const;
  void check_sample(double beta) const;
  Intakes classify(const AddRows& rows, std::size_t row, const Lane& lane) const;
  std::size_t store_row(const AddRows& rows, std::size_t row, std::vector<WrittenFrame>* written);
  std::size_t begin_episode(Lane& lane, const std::uint8_t* given, const Intake& intake,
                            std::vector<WrittenFrame>* written);
  void follow(const Lane& lane, std::uint64_t first, std::uint64_t closed);
  void label(std::vector<WrittenFrame>* written, std::size_t from, const Lane& lane, std::size_t row,
             bool final_observation) const noexcept;

  std::int64_t row_of(const Place& place) const noexcept {
    return static_cast<std::int64_t>(place.sequence * options_.num_envs + place.lane);
  }
  Place place_of(std::int64_t row) const;
  std::uint64_t sampleable() const noexcept;
  std::uint64_t stored_bytes() const noexcept;
  void draw(std::size_t batch_size, double beta, float* weights);
  Pick pick(const Place& place) const noexcept;
  template <class View>
  void pick_batch(std::size_t batch_size, double beta, const View& view);
  void prefetch_pixels(std::size_t index) const noexcept;
  void copy_pixels(std::size_t index, const BatchView& batch) const noexcept;
  void copy_batch(const BatchView& batch) const noexcept;

  // The numbers of the state beside its arrays, as they lie in a file.
  struct Numbers {
    std::vector<std::uint64_t> lanes;         // per lane: its cursors
    std::vector<std::uint64_t> counters;      // of the whole buffer
    std::vector<std::uint64_t> group_counts;  // per lane, and of each group two numbers: under kDelta
    std::vector<std::uint64_t> groups;
  };
  std::vector<Lane> make_lanes(const Pages& transitions);
  std::unique_ptr<FrameStore> make_frames(std::uint64_t env);
  std::size_t row_bytes() const noexcept;
  Numbers numbers() const;
  void set_counters(const std::vector<std::uint64_t>& counters) noexcept;
  Snapshot describe(Numbers& numbers, const std::vector<Lane>& lanes, const Pages& transitions,
                    const double* leaves) const;
  void read_groups(const SnapshotFile& file, Numbers& numbers, std::vector<Lane>& lanes) const;

  const ReplayOptions options_;
  const std::uint64_t ring_;
  const std::size_t frame_bytes_;
  const NStep n_step_;
  const CounterRandom random_;
  Pages frames_;  // under kRaw; a DeltaRing has its own
  Pages transitions_;
  std::vector<Lane> lanes_;
  UniformSampler uniform_;
  std::optional<PrioritySampler> priorities_;  // where alpha > 0

  mutable std::mutex mutex_;
  std::uint64_t draws_ = 0;  // random numbers used: the whole state of the random stream
  std::uint64_t episodes_ = 0;
  std::uint64_t episode_frames_ = 0;
  std::uint64_t whole_stacks_ = 0;
  std::unique_ptr<std::uint8_t[]> working_;  // scratch of the DeltaRings, where they decode
  std::vector<Place> places_;                // scratch of sample(), plan() and update_priorities()
  mutable std::vector<Pick> picks_;          // scratch of sample(), plan() and gather()
  std::vector<double> kept_;                 // scratch of update_priorities()
  std::vector<Intakes> intakes_;             // scratch of begin() and add(): one a row
  std::vector<std::uint64_t> seen_;          // per environment, the last call that named it
  std::uint64_t calls_ = 0;
  std::uint64_t adds_ = 0;  // calls of add(), to ask for memory now and then

  friend struct ReplayAccess;  // the tests' seeded corruptions
};

}  // namespace fastdqn
