#include "fastdqn/replay.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "fastdqn/detail/columns.hpp"
#include "fastdqn/detail/delta_ring.hpp"
#include "fastdqn/detail/frame_ring.hpp"

namespace fastdqn {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

std::string gigabytes(double bytes) {
  const std::string digits = std::to_string(std::llround(bytes / 1e7));
  const std::string padded = digits.size() < 3 ? std::string(3 - digits.size(), '0') + digits : digits;
  return padded.substr(0, padded.size() - 2) + "." + padded.substr(padded.size() - 2) + " GB";
}

void check_ring(const ReplayOptions& o) {
  const std::uint64_t ring = o.capacity / o.num_envs;
  const std::uint64_t least = std::uint64_t{o.stack} + o.n_step + o.guard_frames;
  if (ring < least) {
    refuse("capacity: " + std::to_string(o.capacity) + " frames over " + std::to_string(o.num_envs) +
           " environments leave " + std::to_string(ring) + " each, but stack " + std::to_string(o.stack) +
           " + n_step " + std::to_string(o.n_step) + " + guard_frames " + std::to_string(o.guard_frames) +
           " need " + std::to_string(least) + " each: capacity must be at least " +
           std::to_string(least * o.num_envs));
  }
  if (ring >= (1ULL << 31)) {
    refuse("capacity: " + std::to_string(ring) + " frames an environment are more than 2^31 - 1");
  }
}

// What a frame is counted as before there is one: under kDelta a quarter of itself, which is more than those of any
// game that was measured take. Frames that shrink less are found out as they come.
double expected_bytes(const ReplayOptions& o) {
  const double whole = static_cast<double>(o.frame_bytes());
  return o.storage == Storage::kRaw ? whole : std::ceil(whole / 4);
}

// Memory is reserved lazily, so that the system would accept nearly any size now and kill the process later.
void check_memory(const ReplayOptions& o) {
  const double slots = static_cast<double>(o.capacity / o.num_envs) * static_cast<double>(o.num_envs);
  const double extra = sizeof(Transition) + (o.alpha > 0.0 ? SumTree::kBytesPerLeaf : 0.0);
  const double per_slot = expected_bytes(o) + extra;
  const double available = static_cast<double>(available_memory_bytes());
  if (slots * per_slot <= available) return;
  throw OutOfMemory("capacity: " + std::to_string(o.capacity) + " frames of " +
                    (o.storage == Storage::kRaw ? "" : "about ") +
                    std::to_string(std::lround(expected_bytes(o))) + " + " +
                    std::to_string(std::lround(extra)) + " bytes need " + gigabytes(slots * per_slot) +
                    ", but " + gigabytes(available) + " of memory are available: capacity can be at most " +
                    std::to_string(static_cast<std::uint64_t>(available / per_slot)));
}

// Frames that are kept as deltas take what they take: asked every so many calls, well before the system would
// begin to kill.
void check_memory_left(std::uint64_t stored_bytes) {
  constexpr std::uint64_t kLeast = 64 << 20;
  const std::uint64_t available = available_memory_bytes();
  if (available >= kLeast) return;
  throw OutOfMemory("storage: frames take " + gigabytes(static_cast<double>(stored_bytes)) + ", and " +
                    gigabytes(static_cast<double>(available)) +
                    " of memory are left: these shrink too little for this capacity");
}

const ReplayOptions& checked(const ReplayOptions& o) {
  if (o.num_envs == 0 || o.num_envs >= (1ULL << 31)) refuse("num_envs: must be at least 1 and below 2^31");
  if (o.frame_bytes() == 0 || o.frame_bytes() >= (1ULL << 31)) {
    refuse("frame_shape: a frame must have at least 1 byte and fewer than 2^31");
  }
  if (o.stack == 0 || o.stack > 255) refuse("stack: must be between 1 and 255");
  if (o.n_step == 0) refuse("n_step: must be at least 1");
  if (o.guard_frames >= (1ULL << 31)) refuse("guard_frames: must be below 2^31");
  if (!(o.alpha >= 0.0 && o.alpha <= 1.0)) refuse("alpha: must be between 0 and 1");
  if (!(o.gamma >= 0.0 && o.gamma <= 1.0)) refuse("gamma: must be between 0 and 1");
  if (o.layout == Layout::kWindow && o.n_step != 1) {
    refuse(
        "layout: 'window' needs n_step 1, because the two ends of a longer window share no fixed block; "
        "n_step is " +
        std::to_string(o.n_step) + ": use 'separate'");
  }
  check_ring(o);
  check_memory(o);
  return o;
}

// A flag, read as the byte that it is: reading another byte than 0 and 1 as a bool is undefined, and what a
// numpy array viewed as bool or a message from another process holds is any byte.
bool is_set(const bool* flags, std::size_t row) {
  return reinterpret_cast<const unsigned char*>(flags)[row] != 0;
}

bool done(const AddRows& rows, std::size_t row) {
  return is_set(rows.terminated, row) || is_set(rows.truncated, row);
}

// The caller's arrays that one call fills. Each needs memory of its own: where two shared some, the later
// write would win and the batch would show one row's values under another's name.
class Outputs {
 public:
  template <class T>
  void add(const char* name, const T* data, std::size_t count) {
    if (data == nullptr) return;
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(data), end = begin + count * sizeof(T);
    for (std::size_t i = 0; i < count_; ++i) {
      if (begin >= arrays_[i].end || arrays_[i].begin >= end) continue;
      refuse(std::string(name) + ": shares memory with " + arrays_[i].name +
             ", but every array of a batch needs its own");
    }
    arrays_[count_++] = {name, begin, end};
  }

  template <class View>
  void add_columns(const View& view, std::size_t rows) {
    each_column(view, [&](const char* name, const auto* column) { add(name, column, rows); });
  }

 private:
  struct Memory {
    const char* name;
    std::uintptr_t begin, end;
  };
  std::array<Memory, 7> arrays_{};  // two of pixels and five columns
  std::size_t count_ = 0;
};

// The arrays of pixels of a batch.
Outputs pixels_of(const BatchView& batch, std::size_t rows, const ReplayOptions& options) {
  const std::size_t frame = options.frame_bytes(), stack = options.stack;
  Outputs outputs;
  if (options.layout == Layout::kWindow) {
    outputs.add("window", batch.window, rows * (stack + 1) * frame);
  } else {
    outputs.add("obs", batch.obs, rows * stack * frame);
    outputs.add("next_obs", batch.next_obs, rows * stack * frame);
  }
  return outputs;
}

std::string row_of_env(std::size_t row, const std::int64_t* env_id) {
  const std::string env = std::to_string(env_id == nullptr ? static_cast<std::int64_t>(row) : env_id[row]);
  return "row " + std::to_string(row) + " (environment " + env + ")";
}

}  // namespace

std::uint64_t ReplayOptions::frame_bytes() const noexcept {
  constexpr std::uint64_t kLimit = 1ULL << 31;
  std::uint64_t product = 1;
  for (const std::uint64_t extent : frame_shape) {
    // Never past the limit, so that nothing overflows on the way.
    product = extent > kLimit / std::max<std::uint64_t>(product, 1) ? kLimit : product * extent;
  }
  return product;
}

Replay::Replay(const ReplayOptions& options)
    : options_(checked(options)),
      ring_(options.capacity / options.num_envs),
      frame_bytes_(options.frame_bytes()),
      n_step_(options.n_step, options.gamma),
      random_(options.seed, 0),
      frames_(options.storage == Storage::kRaw ? ring_ * options.num_envs * frame_bytes_ : 0),
      transitions_(ring_ * options.num_envs * sizeof(Transition)),
      seen_(options.num_envs, 0) {
  if (options.alpha > 0.0) priorities_.emplace(options.num_envs, ring_, options.alpha);
  if (options.storage == Storage::kDelta) {
    working_.reset(new std::uint8_t[DeltaCodec(frame_bytes_, row_bytes()).working_bytes()]);
  }
  lanes_ = make_lanes(transitions_);
}

// What lies between a pixel and the one below it; the whole frame where there is but one axis.
std::size_t Replay::row_bytes() const noexcept {
  return options_.frame_shape.size() > 1 ? frame_bytes_ / options_.frame_shape[0] : frame_bytes_;
}

std::unique_ptr<FrameStore> Replay::make_frames(std::uint64_t env) {
  if (options_.storage == Storage::kRaw) {
    return std::make_unique<FrameRing>(frames_.data() + env * ring_ * frame_bytes_, ring_, frame_bytes_);
  }
  const DeltaCodec codec(frame_bytes_, row_bytes());
  return std::make_unique<DeltaRing>(ring_, codec, options_.stack, working_.get());
}

std::vector<Lane> Replay::make_lanes(const Pages& transitions) {
  const LaneOptions lane_options{options_.stack, options_.n_step, options_.guard_frames};
  Transition* records = reinterpret_cast<Transition*>(transitions.data());
  std::vector<Lane> lanes;
  lanes.reserve(options_.num_envs);
  for (std::uint64_t env = 0; env < options_.num_envs; ++env) {
    lanes.emplace_back(make_frames(env), TransitionRing(records + env * ring_, ring_), lane_options);
  }
  return lanes;
}

// ---- storing ----

void Replay::check_env_ids(const std::int64_t* env_id, std::size_t rows) {
  if (env_id == nullptr) {
    if (rows == options_.num_envs) return;
    refuse("env_id: needed where a call has not one row for each of the " +
           std::to_string(options_.num_envs) + " environments; it has " + std::to_string(rows));
  }
  ++calls_;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::int64_t env = env_id[row];
    if (env < 0 || static_cast<std::uint64_t>(env) >= options_.num_envs) {
      refuse("env_id: row " + std::to_string(row) + " has " + std::to_string(env) + ", outside 0 to " +
             std::to_string(options_.num_envs - 1));
    }
    std::uint64_t& last_call = seen_[static_cast<std::size_t>(env)];
    if (last_call == calls_) {
      refuse("env_id: environment " + std::to_string(env) + " is repeated in row " + std::to_string(row) +
             "; one call takes at most one row of each");
    }
    last_call = calls_;
  }
}

std::size_t Replay::begin(const BeginRows& rows, std::vector<WrittenFrame>* written) {
  const std::lock_guard<std::mutex> lock(mutex_);
  check_env_ids(rows.env_id, rows.rows);
  for (std::size_t row = 0; row < rows.rows; ++row) {
    lane_of(rows.env_id, row).frames().reserve(options_.stack);
  }
  intakes_.resize(rows.rows);
  if (written != nullptr) {
    written->clear();
    written->reserve(rows.rows * options_.stack);
  }
  std::size_t whole = 0;
  for (std::size_t row = 0; row < rows.rows; ++row) {
    Lane& lane = lane_of(rows.env_id, row);
    const std::uint8_t* given = stack_at(rows.observation, row);
    const std::size_t from = written == nullptr ? 0 : written->size();
    whole += begin_episode(lane, given, lane.classify(given), written);
    label(written, from, lane, row, false);
  }
  whole_stacks_ += whole;
  return whole;
}

std::size_t Replay::add(const AddRows& rows, std::vector<WrittenFrame>* written) {
  const std::lock_guard<std::mutex> lock(mutex_);
  check_add(rows);
  if (written != nullptr) {
    written->clear();
    written->reserve(rows.rows * 2 * options_.stack);
  }
  std::size_t whole = 0;
  for (std::size_t row = 0; row < rows.rows; ++row) whole += store_row(rows, row, written);
  whole_stacks_ += whole;
  return whole;
}

// Checks the whole call and leaves in intakes_ how each of its stacks will be kept.
void Replay::check_add(const AddRows& rows) {
  constexpr std::uint64_t kCallsBetween = 1024;
  if (options_.storage == Storage::kDelta && ++adds_ % kCallsBetween == 0) check_memory_left(stored_bytes());
  check_env_ids(rows.env_id, rows.rows);
  if (rows.final_observation != nullptr && options_.autoreset != Autoreset::kSameStep) {
    refuse("final_observation: belongs to autoreset 'same_step' alone");
  }
  intakes_.resize(rows.rows);
  for (std::size_t row = 0; row < rows.rows; ++row) check_add_row(rows, row, lane_of(rows.env_id, row));
  for (std::size_t row = 0; row < rows.rows; ++row) {
    Lane& lane = lane_of(rows.env_id, row);
    lane.frames().reserve(2 * std::size_t{options_.stack});
    intakes_[row] = classify(rows, row, lane);
    if (options_.layout == Layout::kWindow && !is_reset_row(lane) &&
        !lane.fits_window(intakes_[row].final_observation)) {
      refuse(std::string(rows.final_observation != nullptr && done(rows, row) ? "final_observation"
                                                                              : "observation") +
             ": the older frames of " + row_of_env(row, rows.env_id) +
             " are not those of the observation before it, so no window of stack + 1 frames holds both: use "
             "layout "
             "'separate' with this environment");
    }
  }
}

void Replay::check_add_row(const AddRows& rows, std::size_t row, const Lane& lane) const {
  const auto name = [&] { return row_of_env(row, rows.env_id); };
  if (lane.phase() == Lane::Phase::kUnbegun) {
    refuse("env_id: " + name() + " has no episode yet: call begin() with its first observation");
  }
  if (is_reset_row(lane)) {
    if (!done(rows, row)) return;
    refuse(std::string(is_set(rows.terminated, row) ? "terminated" : "truncated") + ": " + name() +
           " is the autoreset row after a done, which cannot be done itself");
  }
  if (lane.phase() == Lane::Phase::kDone) {
    refuse("env_id: the episode of " + name() +
           " is over: with autoreset 'disabled' begin() must come first");
  }
  if (rows.action[row] != static_cast<std::int32_t>(rows.action[row])) {
    refuse("action: " + std::to_string(rows.action[row]) + " of " + name() + " does not fit 32 bits");
  }
  if (!std::isfinite(rows.reward[row])) {
    refuse("reward: " + name() + " has " + std::to_string(rows.reward[row]) + ", which is no finite float32");
  }
  if (options_.autoreset == Autoreset::kSameStep && done(rows, row) && rows.final_observation == nullptr) {
    refuse("final_observation: needed with autoreset 'same_step', because " + name() + " is done");
  }
}

// `final_observation` tells how the transition's next observation is kept, `observation` how the first one of
// a new episode is, where the row has both; otherwise they are the same.
Replay::Intakes Replay::classify(const AddRows& rows, std::size_t row, const Lane& lane) const {
  const std::uint8_t* given = stack_at(rows.observation, row);
  if (options_.autoreset != Autoreset::kSameStep || !done(rows, row)) {
    const Intake intake = lane.classify(given);
    return {intake, intake};
  }
  const std::uint8_t* last = stack_at(rows.final_observation, row);
  const Intake final_intake = lane.classify(last);
  return {lane.classify_after(last, final_intake.depth, given), final_intake};
}

std::size_t Replay::store_row(const AddRows& rows, std::size_t row, std::vector<WrittenFrame>* written) {
  Lane& lane = lane_of(rows.env_id, row);
  const Intakes& intakes = intakes_[row];
  const std::uint8_t* given = stack_at(rows.observation, row);
  std::size_t from = written == nullptr ? 0 : written->size();
  std::size_t whole = 0;
  bool begins = is_reset_row(lane);
  if (!begins) {
    begins = options_.autoreset == Autoreset::kSameStep && done(rows, row);
    const std::uint8_t* next = begins ? stack_at(rows.final_observation, row) : given;
    const std::uint64_t first = lane.first(), closed = lane.closed();
    lane.step({static_cast<std::int32_t>(rows.action[row]), rows.reward[row], is_set(rows.terminated, row),
               is_set(rows.truncated, row)},
              next, intakes.final_observation, written);
    follow(lane, first, closed);
    label(written, from, lane, row, begins);
    whole += intakes.final_observation.whole(options_.stack);
  }
  if (begins) {
    from = written == nullptr ? 0 : written->size();
    whole += begin_episode(lane, given, intakes.observation, written);
    label(written, from, lane, row, false);
  }
  return whole;
}

// Returns whether the stack counts as one stored whole. Of two frames the first stack of an episode never
// does: it may always be a padded one.
std::size_t Replay::begin_episode(Lane& lane, const std::uint8_t* given, const Intake& intake,
                                  std::vector<WrittenFrame>* written) {
  const std::uint64_t first = lane.first(), closed = lane.closed();
  lane.begin(given, intake, written);
  follow(lane, first, closed);
  ++episodes_;
  episode_frames_ += intake.frames();
  return options_.stack > 2 && intake.whole(options_.stack);
}

void Replay::follow(const Lane& lane, std::uint64_t first, std::uint64_t closed) {
  if (!priorities_) return;
  priorities_->follow(lane, static_cast<std::uint64_t>(&lane - lanes_.data()), first, closed);
}

// Completes what a lane reported: its slots become global ones, and the row of the call is filled in.
void Replay::label(std::vector<WrittenFrame>* written, std::size_t from, const Lane& lane, std::size_t row,
                   bool final_observation) const noexcept {
  if (written == nullptr) return;
  const std::int64_t offset = (&lane - lanes_.data()) * static_cast<std::int64_t>(ring_);
  for (std::size_t i = from; i < written->size(); ++i) {
    WrittenFrame& frame = (*written)[i];
    frame.slot += offset;
    frame.source_row = static_cast<std::int64_t>(row);
    frame.source_final = final_observation;
  }
}

// ---- sampling ----

std::uint64_t Replay::sampleable() const noexcept {
  std::uint64_t total = 0;
  for (const Lane& lane : lanes_) total += lane.sampleable();
  return total;
}

void Replay::check_sample(double beta) const {
  if (!(beta >= 0.0 && beta <= 1.0)) refuse("beta: must be between 0 and 1");
  if (sampleable() == 0) {
    throw std::runtime_error("nothing can be sampled: at least 1 transition is needed, complete once " +
                             std::to_string(options_.n_step) +
                             " step(s) of its episode, or the episode's end, have been added after begin()");
  }
  if (priorities_ && !priorities_->any()) {
    throw std::runtime_error("nothing can be sampled: the priorities of all rows are zero");
  }
}

void Replay::draw(std::size_t batch_size, double beta, float* weights) {
  places_.resize(batch_size);
  if (priorities_) {
    priorities_->draw(lanes_, random_, draws_, beta, places_, weights);
  } else {
    uniform_.draw(lanes_, random_, draws_, places_);
    std::fill(weights, weights + batch_size, 1.0f);
  }
  draws_ += batch_size;
}

Replay::Pick Replay::pick(const Place& place) const noexcept {
  const Lane& lane = lanes_[place.lane];
  const TransitionRing& transitions = lane.transitions();
  const std::uint64_t written = lane.frames().written();
  const Transition& first = transitions[place.sequence];
  const NStepResult result = n_step_.fold(transitions, place.sequence);
  const Transition& last = transitions[place.sequence + result.length - 1];
  return {&lane, first.observation(written), last.next_observation(written), result, first.action};
}

// Draws a batch, folds its windows into picks_, and writes the columns that a batch and a plan share.
template <class View>
void Replay::pick_batch(std::size_t batch_size, double beta, const View& view) {
  check_sample(beta);
  draw(batch_size, beta, view.weight);
  for (const Place& place : places_) lanes_[place.lane].transitions().prefetch(place.sequence);
  picks_.clear();
  for (std::size_t i = 0; i < batch_size; ++i) {
    picks_.push_back(pick(places_[i]));
    view.action[i] = picks_[i].action;
    view.reward[i] = picks_[i].result.reward;
    view.discount[i] = picks_[i].result.discount;
    view.row[i] = row_of(places_[i]);
  }
}

void Replay::prefetch_pixels(std::size_t index) const noexcept {
  const Pick& pick = picks_[index];
  pick.lane->frames().prefetch(pick.obs);
  pick.lane->frames().prefetch({pick.next.newest, 0});
}

void Replay::copy_pixels(std::size_t index, const BatchView& batch) const noexcept {
  const Pick& pick = picks_[index];
  const FrameStore& frames = pick.lane->frames();
  const std::uint32_t stack = options_.stack;
  if (options_.layout == Layout::kWindow) {
    // One stack of stack + 1 frames: the observation's, then the one frame that the next observation adds.
    const StackRef window{pick.next.newest, pick.obs.depth + 1};
    frames.copy_stack(window, stack + 1, batch.window + index * (stack + 1) * frame_bytes_);
    return;
  }
  const std::size_t offset = index * stack * frame_bytes_;
  frames.copy_pair(pick.obs, pick.next, stack, batch.obs + offset, batch.next_obs + offset);
}

// Copies the pixels of picks_, fetching those of the next row ahead.
void Replay::copy_batch(const BatchView& batch) const noexcept {
  for (std::size_t i = 0; i < picks_.size(); ++i) {
    if (i + 1 < picks_.size()) prefetch_pixels(i + 1);
    copy_pixels(i, batch);
  }
}

void Replay::sample(std::size_t batch_size, double beta, const BatchView& batch) {
  pixels_of(batch, batch_size, options_).add_columns(batch, batch_size);
  const std::lock_guard<std::mutex> lock(mutex_);
  pick_batch(batch_size, beta, batch);
  copy_batch(batch);
}

void Replay::plan(std::size_t batch_size, double beta, const PlanView& plan) {
  const std::uint32_t stack = options_.stack;
  Outputs outputs;
  outputs.add("obs_frames", plan.obs_frames, batch_size * stack);
  outputs.add("next_frames", plan.next_frames, batch_size * stack);
  outputs.add_columns(plan, batch_size);
  const std::lock_guard<std::mutex> lock(mutex_);
  pick_batch(batch_size, beta, plan);
  for (std::size_t i = 0; i < batch_size; ++i) {
    const FrameStore& frames = picks_[i].lane->frames();
    const std::uint64_t base = places_[i].lane * ring_;
    for (std::uint32_t k = 0; k < stack; ++k) {
      const std::uint64_t obs = base + frames.slot(picks_[i].obs.at(k, stack));
      const std::uint64_t next = base + frames.slot(picks_[i].next.at(k, stack));
      plan.obs_frames[i * stack + k] = static_cast<std::int64_t>(obs);
      plan.next_frames[i * stack + k] = static_cast<std::int64_t>(next);
    }
  }
}

// The place of a row that was sampled once; refuses numbers that never were.
Place Replay::place_of(std::int64_t row) const {
  const std::uint64_t envs = options_.num_envs;
  const Place place{static_cast<std::uint64_t>(row) % envs, static_cast<std::uint64_t>(row) / envs};
  if (row < 0 || place.sequence >= lanes_[place.lane].closed()) {
    refuse("row: " + std::to_string(row) + " was never sampleable");
  }
  return place;
}

void Replay::gather(Span<const std::int64_t> rows, const BatchView& batch) const {
  pixels_of(batch, rows.size(), options_).add_columns(batch, rows.size());
  const std::lock_guard<std::mutex> lock(mutex_);
  picks_.clear();
  for (const std::int64_t row : rows) {
    const Place place = place_of(row);
    if (place.sequence < lanes_[place.lane].intact()) {
      throw std::runtime_error(
          "a frame of row " + std::to_string(row) + " (environment " + std::to_string(place.lane) +
          ") was overwritten since it was planned: gather sooner, or raise guard_frames");
    }
    picks_.push_back(pick(place));
  }
  copy_batch(batch);
}

void Replay::read_frames(std::uint64_t first_slot, std::uint64_t count, std::uint8_t* out) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t slots = ring_ * options_.num_envs;
  if (first_slot > slots || count > slots - first_slot) {
    refuse("first_slot: " + std::to_string(count) + " slots from " + std::to_string(first_slot) +
           " on are more than the " + std::to_string(slots) + " there are");
  }
  while (count > 0) {
    const FrameStore& frames = lanes_[first_slot / ring_].frames();
    const std::uint64_t slot = first_slot % ring_, turn = frames.written() / ring_;
    const std::uint64_t filled =
        frames.written() % ring_;  // slots of this turn; the rest is of the one before
    const std::uint64_t run = std::min(count, (slot < filled ? filled : ring_) - slot);
    if (slot < filled || turn > 0) {
      frames.copy_run((slot < filled ? turn : turn - 1) * ring_ + slot, run, out);
    } else {
      std::memset(out, 0, run * frame_bytes_);
    }
    first_slot += run;
    count -= run;
    out += run * frame_bytes_;
  }
}

std::size_t Replay::update_priorities(Span<const std::int64_t> rows, Span<const double> priorities) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (rows.size() != priorities.size()) {
    refuse("priority: " + std::to_string(priorities.size()) + " values for " + std::to_string(rows.size()) +
           " rows");
  }
  places_.clear();
  kept_.clear();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Place place = place_of(rows[i]);
    if (!(priorities[i] >= 0.0 && priorities[i] <= PrioritySampler::kLargest)) {
      refuse("priority: entry " + std::to_string(i) + " is " + std::to_string(priorities[i]) +
             ", not a number from 0 to 1e100");
    }
    if (!lanes_[place.lane].is_sampleable(place.sequence)) continue;
    places_.push_back(place);
    kept_.push_back(priorities[i]);
  }
  if (priorities_) priorities_->update(places_, kept_);
  return rows.size() - places_.size();
}

// ---- telling ----

std::uint64_t Replay::stored_bytes() const noexcept {
  std::uint64_t total = 0;
  for (const Lane& lane : lanes_) total += lane.frames().counts().bytes;
  return total;
}

std::uint64_t Replay::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return sampleable();
}

ReplayStats Replay::stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  ReplayStats stats;
  stats.slots = ring_ * options_.num_envs;
  for (const Lane& lane : lanes_) {
    stats.frames += std::min(lane.frames().written(), ring_);
    stats.frames_written += lane.frames().written();
    const StorageCounts counts = lane.frames().counts();
    stats.stored_bytes += counts.bytes;
    stats.key_frames += counts.key_frames;
    stats.raw_frames += counts.raw_frames;
    stats.transitions += lane.appended();
    stats.sampleable += lane.sampleable();
  }
  stats.episode_frames = episode_frames_;
  stats.episodes = episodes_;
  stats.whole_stacks = whole_stacks_;
  const std::uint64_t tree_bytes = priorities_ ? priorities_->tree().allocated_bytes() : 0;
  const std::uint64_t frame_bytes = options_.storage == Storage::kRaw ? frames_.size() : stats.stored_bytes;
  stats.allocated_bytes = frame_bytes + transitions_.size() + tree_bytes + lanes_.capacity() * sizeof(Lane) +
                          seen_.capacity() * sizeof(seen_[0]) + sizeof(Replay);
  return stats;
}

std::string Replay::invariant_violation() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::size_t env = 0; env < lanes_.size(); ++env) {
    const std::string reason = lanes_[env].invariant_violation();
    if (!reason.empty()) return "environment " + std::to_string(env) + ": " + reason;
  }
  if (priorities_) return priorities_->invariant_violation(lanes_);
  return "";
}

}  // namespace fastdqn
