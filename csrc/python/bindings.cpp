// The module fastdqn._core: checks what Python gives, takes pointers, releases the GIL, calls the core.
//
// There is no algorithm here. Every function that takes arrays checks their types and shapes by hand, because
// an error must name the argument and because an automatic conversion of an output would fill a temporary.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "fastdqn/detail/columns.hpp"
#include "fastdqn/detail/grey_levels.hpp"
#include "fastdqn/detail/linear.hpp"
#include "fastdqn/detail/narrow_torso.hpp"
#include "fastdqn/detail/winograd_torso.hpp"
#include "fastdqn/replay.hpp"
#include "fastdqn/version.hpp"

namespace py = pybind11;

namespace {

using fastdqn::Autoreset;
using fastdqn::Layout;
using fastdqn::Replay;
using fastdqn::ReplayOptions;
using fastdqn::Span;
using fastdqn::Storage;
using Shape = std::vector<py::ssize_t>;

std::string text_of(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

Shape shape_of(const py::array& array) { return Shape(array.shape(), array.shape() + array.ndim()); }

template <class T>
constexpr char kind_of() {
  if (std::is_same_v<T, bool>) return 'b';
  if (std::is_floating_point_v<T>) return 'f';
  return std::is_signed_v<T> ? 'i' : 'u';
}

// numpy's name of T, such as "int64".
template <class T>
std::string dtype_of() {
  if (kind_of<T>() == 'b') return "bool";
  const std::string kind = kind_of<T>() == 'f' ? "float" : kind_of<T>() == 'i' ? "int" : "uint";
  return kind + std::to_string(8 * sizeof(T));
}

// Whether the elements are T in the machine's byte order. By kind and size, since C has two 64-bit integers.
template <class T>
bool holds(const py::array& array) {
  const py::dtype dtype = array.dtype();
  const char order = dtype.byteorder();
  return dtype.kind() == kind_of<T>() && dtype.itemsize() == sizeof(T) && (order == '=' || order == '|');
}

py::array as_array(const py::object& object, const char* name) {
  if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
  throw py::type_error(std::string(name) + ": must be a numpy array, not " +
                       std::string(py::str(py::type::of(object).attr("__name__"))));
}

[[noreturn]] void refuse_dtype(const char* name, const std::string& wanted, const py::array& array) {
  throw py::type_error(std::string(name) + ": dtype must be " + wanted + ", not " +
                       std::string(py::str(array.dtype())));
}

void check_shape(const py::array& array, const char* name, const Shape& wanted) {
  const Shape shape = shape_of(array);
  if (shape == wanted) return;
  throw py::value_error(std::string(name) + ": shape must be " + text_of(wanted) + ", not " + text_of(shape));
}

bool is_contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

// An input, copied only if it is not contiguous. `keep` holds what the pointer points at.
const std::uint8_t* bytes_of(py::array array, std::vector<py::object>& keep) {
  if (!is_contiguous(array))
    array = py::reinterpret_borrow<py::array>(py::array::ensure(array, py::array::c_style));
  keep.push_back(array);
  return static_cast<const std::uint8_t*>(array.data());
}

// An input column of `rows` entries as T: its own memory where it holds T already, else converted from U.
template <class T, class U>
const T* column_of(const py::object& object, const char* name, const char* wanted, std::size_t rows,
                   std::vector<py::object>& keep, std::vector<T>& converted) {
  const py::array array = as_array(object, name);
  if (!holds<T>(array) && !holds<U>(array)) refuse_dtype(name, wanted, array);
  check_shape(array, name, {static_cast<py::ssize_t>(rows)});
  const std::uint8_t* bytes = bytes_of(array, keep);
  if (holds<T>(array)) return reinterpret_cast<const T*>(bytes);
  const U* values = reinterpret_cast<const U*>(bytes);
  converted.reserve(rows + 1);  // never null: to the core that means an argument that was not given
  converted.resize(rows);
  for (std::size_t i = 0; i < rows; ++i) converted[i] = static_cast<T>(values[i]);
  return converted.data();
}

const bool* flags_of(const py::object& object, const char* name, std::size_t rows,
                     std::vector<py::object>& keep) {
  const py::array array = as_array(object, name);
  if (!holds<bool>(array)) refuse_dtype(name, "bool", array);
  check_shape(array, name, {static_cast<py::ssize_t>(rows)});
  return reinterpret_cast<const bool*>(bytes_of(array, keep));
}

// An output: exactly the array that the core will fill.
template <class T>
T* output_of(const py::object& object, const char* name, const Shape& shape) {
  py::array array = as_array(object, name);
  if (!holds<T>(array)) refuse_dtype(name, dtype_of<T>(), array);
  check_shape(array, name, shape);
  if (!is_contiguous(array)) throw py::value_error(std::string(name) + ": must be C-contiguous");
  if (!array.writeable()) throw py::value_error(std::string(name) + ": must be writeable");
  return static_cast<T*>(array.mutable_data());
}

template <class Work>
auto run(const Work& work) {
  py::gil_scoped_release released;
  return work();
}

// `stacks`: uint8 [B, 4, H, W]; `out`: [B, H, W, 4], float32 or, for bfloat16, which numpy lacks, uint16.
void write_grey_levels(const py::object& stacks, bool centered, const py::object& out) {
  const py::array array = as_array(stacks, "stacks");
  if (!holds<std::uint8_t>(array)) refuse_dtype("stacks", "uint8", array);
  const Shape shape = shape_of(array);
  constexpr auto kStack = static_cast<py::ssize_t>(fastdqn::kStack);
  if (shape.size() != 4 || shape[1] != kStack)
    throw py::value_error("stacks: shape must be (B, 4, H, W), not " + text_of(shape));
  std::vector<py::object> keep;
  const std::uint8_t* bytes = bytes_of(array, keep);
  const Shape wanted = {shape[0], shape[2], shape[3], kStack};
  const auto rows = static_cast<std::size_t>(shape[0]),
             pixels = static_cast<std::size_t>(shape[2] * shape[3]);
  const auto write_to = [&](auto* numbers) {
    run([&] { fastdqn::grey_levels(bytes, rows, pixels, centered, numbers); });
  };
  if (holds<fastdqn::Bfloat16Bits>(as_array(out, "out")))
    write_to(output_of<fastdqn::Bfloat16Bits>(out, "out", wanted));
  else
    write_to(output_of<float>(out, "out", wanted));
}

// A torso's arrays. bfloat16 is uint16 here; only the sizes are checked, since all lie in memory as the core has them.
template <class T>
T* numbers_of(const py::object& object, const char* name, std::size_t count) {
  py::array array = as_array(object, name);
  if (!holds<T>(array)) refuse_dtype(name, dtype_of<T>(), array);
  if (static_cast<std::size_t>(array.size()) != count || !is_contiguous(array))
    throw py::value_error(std::string(name) + ": must be " + std::to_string(count) + " contiguous numbers");
  return static_cast<T*>(array.mutable_data());
}

template <class Number>
fastdqn::NarrowLayers<Number> narrow_layers_of(const py::sequence& arrays, const char* name,
                                               std::size_t networks = 1, std::size_t network = 0) {
  if (arrays.size() != 6) throw py::value_error(std::string(name) + ": must be 6 arrays");
  fastdqn::NarrowLayers<Number> layers{};
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t weights = fastdqn::kNarrowWeights[i], filters = fastdqn::kNarrowFilters[i];
    layers.weights[i] = numbers_of<float>(arrays[2 * i], name, networks * weights) + network * weights;
    layers.biases[i] = numbers_of<float>(arrays[2 * i + 1], name, networks * filters) + network * filters;
  }
  return layers;
}

using Bits = fastdqn::Bfloat16Bits;

std::size_t narrow_rows_of(const py::object& pixels) {
  const std::size_t rows =
      static_cast<std::size_t>(as_array(pixels, "pixels").size()) / fastdqn::kNarrowPixels;
  if (!fastdqn::has_narrow_torso()) throw std::runtime_error("this CPU has no AVX-512 with bfloat16");
  return rows;
}

struct NarrowMaps {
  Bits* maps[3];
  NarrowMaps(const py::sequence& arrays, std::size_t rows) {
    if (arrays.size() != 3) throw py::value_error("maps: must be 3 arrays");
    for (std::size_t i = 0; i < 3; ++i)
      maps[i] = numbers_of<Bits>(arrays[i], "maps", rows * fastdqn::kNarrowMaps[i]);
  }
};

void write_narrow_torso(const py::object& pixels, const py::sequence& layers, const py::sequence& maps) {
  const std::size_t rows = narrow_rows_of(pixels);
  const Bits* read = numbers_of<Bits>(pixels, "pixels", rows * fastdqn::kNarrowPixels);
  const auto own = narrow_layers_of<const float>(layers, "layers");
  const NarrowMaps made(maps, rows);
  run([&] { fastdqn::narrow_torso(read, rows, own, made.maps); });
}

// `layers`: both networks', one after the other in each array; `features`: those of the first, then the second's.
void write_narrow_torsos(const py::object& pixels, const py::sequence& layers, const py::object& features) {
  const std::size_t rows = narrow_rows_of(pixels), size = rows * fastdqn::kNarrowMaps[2];
  const Bits* read = numbers_of<Bits>(pixels, "pixels", rows * fastdqn::kNarrowPixels);
  const fastdqn::NarrowLayers<const float> own[2] = {narrow_layers_of<const float>(layers, "layers", 2, 0),
                                                     narrow_layers_of<const float>(layers, "layers", 2, 1)};
  Bits* made = numbers_of<Bits>(features, "features", 2 * size);
  Bits* const halves[2] = {made, made + size};
  run([&] { fastdqn::narrow_torsos(read, rows, own, halves); });
}

void write_narrow_torso_backward(const py::object& gradient, const py::object& pixels,
                                 const py::sequence& layers, const py::sequence& maps,
                                 const py::sequence& gradients) {
  const std::size_t rows = narrow_rows_of(pixels);
  const Bits* above = numbers_of<Bits>(gradient, "gradient", rows * fastdqn::kNarrowMaps[2]);
  const Bits* read = numbers_of<Bits>(pixels, "pixels", rows * fastdqn::kNarrowPixels);
  const auto own = narrow_layers_of<const float>(layers, "layers");
  const NarrowMaps made(maps, rows);
  const auto out = narrow_layers_of<float>(gradients, "gradients");
  run([&] { fastdqn::narrow_torso_backward(above, read, rows, own, made.maps, out); });
}

// The width is that of the first layer's biases.
fastdqn::TorsoWidth torso_width_of(const py::sequence& layers, const char* name) {
  if (layers.size() != 6) throw py::value_error(std::string(name) + ": must be 6 arrays");
  const auto filters = static_cast<std::size_t>(as_array(layers[1], name).size());
  return filters == fastdqn::torso_filters(fastdqn::TorsoWidth::kHalf, 0) ? fastdqn::TorsoWidth::kHalf
                                                                          : fastdqn::TorsoWidth::kFull;
}

template <class Number>
fastdqn::TorsoLayers<Number> torso_layers_of(const py::sequence& arrays, const char* name,
                                             fastdqn::TorsoWidth width) {
  if (arrays.size() != 6) throw py::value_error(std::string(name) + ": must be 6 arrays");
  fastdqn::TorsoLayers<Number> layers{};
  for (int i = 0; i < 3; ++i) {
    layers.weights[i] = numbers_of<float>(arrays[2 * i], name, fastdqn::torso_weights(width, i));
    layers.biases[i] = numbers_of<float>(arrays[2 * i + 1], name, fastdqn::torso_filters(width, i));
  }
  return layers;
}

Shape torso_shape_of(const py::array& stacks) {
  const Shape shape = shape_of(stacks);
  if (!holds<std::uint8_t>(stacks)) refuse_dtype("stacks", "uint8", stacks);
  if (shape.size() != 4 || shape[1] != 4 || shape[2] != 84 || shape[3] != 84)
    throw py::value_error("stacks: shape must be (B, 4, 84, 84), not " + text_of(shape));
  if (!fastdqn::has_winograd_torso()) throw std::runtime_error("this CPU has no AVX2");
  return shape;
}

struct TorsoMaps {
  float* maps[3];
  TorsoMaps(const py::sequence& arrays, std::size_t rows, fastdqn::TorsoWidth width) {
    if (arrays.size() != 3) throw py::value_error("maps: must be 3 arrays");
    for (int i = 0; i < 3; ++i)
      maps[i] = numbers_of<float>(arrays[i], "maps", rows * fastdqn::torso_map(width, i));
  }
};

// `torch_parallel_for` of PyTorch's stable C interface.
using ParallelFor = std::int32_t (*)(std::int64_t begin, std::int64_t end, std::int64_t grain_size,
                                     void (*work)(std::int64_t, std::int64_t, void*), void* context);

// PyTorch's threads, so that there is one pool of them; `parallel_for` is the address of the function, or 0 for one
// part after the other.
fastdqn::Parallel parallel_of(std::size_t threads, std::uintptr_t parallel_for) {
  if (threads < 1) throw py::value_error("threads: must be 1 or more");
  using Work = std::function<void(std::size_t)>;
  if (parallel_for == 0) threads = 1;
  return {threads, [parallel_for](std::size_t parts, const Work& work) {
            const auto some = [](std::int64_t begin, std::int64_t end, void* context) {
              for (std::int64_t part = begin; part < end; ++part)
                (*static_cast<const Work*>(context))(static_cast<std::size_t>(part));
            };
            const auto count = static_cast<std::int64_t>(parts);
            void* const context = const_cast<Work*>(&work);
            if (parallel_for == 0)
              some(0, count, context);
            else if (reinterpret_cast<ParallelFor>(parallel_for)(0, count, 1, some, context) != 0)
              throw std::runtime_error("PyTorch could not run it in parallel");
          }};
}

// `rows`: float32 [B, in]; `weights`: [out, in]; `biases`: [out], or None; `out`: [B, out].
void write_linear(const py::object& rows, const py::object& weights, const py::object& biases,
                  const py::object& out, std::size_t threads, std::uintptr_t parallel_for) {
  const Shape in = shape_of(as_array(rows, "rows")), own = shape_of(as_array(weights, "weights"));
  if (in.size() != 2 || own.size() != 2 || in[1] != own[1])
    throw py::value_error("rows, weights: shapes must be (B, I) and (O, I), not " + text_of(in) + " and " +
                          text_of(own));
  if (in[1] % 16 != 0)
    throw py::value_error("rows: I must be a multiple of 16, not " + std::to_string(in[1]));
  if (!fastdqn::has_linear()) throw std::runtime_error("this CPU has no AVX2");
  const auto count = static_cast<std::size_t>(in[0]), inputs = static_cast<std::size_t>(in[1]),
             outputs = static_cast<std::size_t>(own[0]);
  const float* read = numbers_of<float>(rows, "rows", count * inputs);
  const float* weight = numbers_of<float>(weights, "weights", outputs * inputs);
  const float* bias = biases.is_none() ? nullptr : numbers_of<float>(biases, "biases", outputs);
  float* made = numbers_of<float>(out, "out", count * outputs);
  const fastdqn::Parallel parallel = parallel_of(threads, parallel_for);
  run([&] { fastdqn::linear(read, count, inputs, weight, bias, outputs, made, parallel); });
}

void write_winograd_torso(const py::object& stacks, bool centered, const py::sequence& layers,
                          const py::sequence& maps, std::size_t threads, std::uintptr_t parallel_for) {
  std::vector<py::object> keep;
  const py::array array = as_array(stacks, "stacks");
  const auto rows = static_cast<std::size_t>(torso_shape_of(array)[0]);
  const std::uint8_t* bytes = bytes_of(array, keep);
  const fastdqn::TorsoWidth width = torso_width_of(layers, "layers");
  const auto own = torso_layers_of<const float>(layers, "layers", width);
  const TorsoMaps made(maps, rows, width);
  const fastdqn::Parallel parallel = parallel_of(threads, parallel_for);
  run([&] { fastdqn::winograd_torso(width, bytes, rows, centered, own, made.maps, parallel); });
}

void write_winograd_torso_backward(const py::object& gradient, const py::object& stacks, bool centered,
                                   const py::sequence& layers, const py::sequence& maps,
                                   const py::sequence& gradients, std::size_t threads,
                                   std::uintptr_t parallel_for) {
  std::vector<py::object> keep;
  const py::array array = as_array(stacks, "stacks");
  const auto rows = static_cast<std::size_t>(torso_shape_of(array)[0]);
  const std::uint8_t* bytes = bytes_of(array, keep);
  const fastdqn::TorsoWidth width = torso_width_of(layers, "layers");
  const float* above = numbers_of<float>(gradient, "gradient", rows * fastdqn::torso_map(width, 2));
  const auto own = torso_layers_of<const float>(layers, "layers", width);
  const TorsoMaps made(maps, rows, width);
  const auto out = torso_layers_of<float>(gradients, "gradients", width);
  const fastdqn::Parallel parallel = parallel_of(threads, parallel_for);
  run([&] {
    fastdqn::winograd_torso_backward(width, above, bytes, rows, centered, own, made.maps, out, parallel);
  });
}

// The core, and the shape of a frame, which the core does not need.
class PyReplay {
 public:
  PyReplay(const ReplayOptions& options, Shape frame_shape)
      : core_(options), frame_shape_(std::move(frame_shape)) {}

  py::tuple begin(const py::object& observation, const py::object& env_id) {
    std::vector<py::object> keep;
    std::vector<std::int64_t> env_ids;
    fastdqn::BeginRows rows;
    rows.rows = rows_of(observation, "observation");
    rows.env_id = env_ids_of(env_id, rows.rows, keep, env_ids);
    rows.observation = stacks_of(observation, "observation", rows.rows, keep);
    std::vector<fastdqn::WrittenFrame> written;
    return added(written, run([&] { return core_.begin(rows, &written); }));
  }

  py::tuple add(const py::object& action, const py::object& observation, const py::object& reward,
                const py::object& terminated, const py::object& truncated, const py::object& env_id,
                const py::object& final_observation) {
    std::vector<py::object> keep;
    std::vector<std::int64_t> actions, env_ids;
    std::vector<float> rewards;
    fastdqn::AddRows rows;
    rows.rows = rows_of(observation, "observation");
    rows.observation = stacks_of(observation, "observation", rows.rows, keep);
    rows.env_id = env_ids_of(env_id, rows.rows, keep, env_ids);
    rows.action =
        column_of<std::int64_t, std::int32_t>(action, "action", "int64 or int32", rows.rows, keep, actions);
    rows.reward = column_of<float, double>(reward, "reward", "float32 or float64", rows.rows, keep, rewards);
    rows.terminated = flags_of(terminated, "terminated", rows.rows, keep);
    rows.truncated = flags_of(truncated, "truncated", rows.rows, keep);
    if (!final_observation.is_none()) {
      rows.final_observation = stacks_of(final_observation, "final_observation", rows.rows, keep);
    }
    std::vector<fastdqn::WrittenFrame> written;
    return added(written, run([&] { return core_.add(rows, &written); }));
  }

  // `out` is a Batch of fastdqn.replay: its arrays are filled.
  void sample(py::ssize_t batch_size, double beta, const py::object& out) {
    const fastdqn::BatchView view = batch_view(out, batch_size);
    run([&] { core_.sample(static_cast<std::size_t>(batch_size), beta, view); });
  }

  // `out` is a Plan of fastdqn.replay.
  void plan(py::ssize_t batch_size, double beta, const py::object& out) {
    const Shape shape{batch_size, static_cast<py::ssize_t>(core_.options().stack)};
    fastdqn::PlanView view;
    view.obs_frames = output_of<std::int64_t>(out.attr("obs_frames"), "obs_frames", shape);
    view.next_frames = output_of<std::int64_t>(out.attr("next_frames"), "next_frames", shape);
    set_columns(view, out, batch_size);
    run([&] { core_.plan(static_cast<std::size_t>(batch_size), beta, view); });
  }

  // `row` names what to fetch into the pixels of `out`, a Batch. Its columns are checked as outputs and left to
  // the caller to fill.
  void gather(const py::object& row, const py::object& out) {
    std::vector<py::object> keep;
    std::vector<std::int64_t> converted;
    const std::size_t count = rows_of(row, "row");
    const std::int64_t* rows =
        column_of<std::int64_t, std::int64_t>(row, "row", "int64", count, keep, converted);
    const fastdqn::BatchView view = batch_view(out, static_cast<py::ssize_t>(count));
    run([&] { core_.gather({rows, count}, view); });
  }

  void read_frames(std::uint64_t first_slot, const py::object& out) const {
    const std::size_t count = rows_of(out, "out");
    Shape shape = frame_shape_;
    shape.insert(shape.begin(), static_cast<py::ssize_t>(count));
    std::uint8_t* pixels = output_of<std::uint8_t>(out, "out", shape);
    run([&] { core_.read_frames(first_slot, count, pixels); });
  }

  std::size_t update_priorities(const py::object& row, const py::object& priority) {
    std::vector<py::object> keep;
    std::vector<std::int64_t> row_copy;
    std::vector<double> priority_copy;
    const std::size_t count = rows_of(row, "row");
    const std::int64_t* rows =
        column_of<std::int64_t, std::int32_t>(row, "row", "int64 or int32", count, keep, row_copy);
    const double* priorities =
        column_of<double, float>(priority, "priority", "float32 or float64", count, keep, priority_copy);
    return run([&] { return core_.update_priorities({rows, count}, {priorities, count}); });
  }

  void save(const std::string& path) const {
    run([&] { core_.save(path); });
  }
  void load(const std::string& path) {
    run([&] { core_.load(path); });
  }

  std::uint64_t ring() const { return core_.ring(); }
  std::uint64_t size() const {
    return run([&] { return core_.size(); });
  }
  std::string invariant_violation() const {
    return run([&] { return core_.invariant_violation(); });
  }

  py::dict stats() const {
    const fastdqn::ReplayStats stats = run([&] { return core_.stats(); });
    py::dict dict;
    dict["slots"] = stats.slots;
    dict["frames"] = stats.frames;
    dict["frames_written"] = stats.frames_written;
    dict["episode_frames"] = stats.episode_frames;
    dict["transitions"] = stats.transitions;
    dict["sampleable"] = stats.sampleable;
    dict["episodes"] = stats.episodes;
    dict["whole_stacks"] = stats.whole_stacks;
    dict["stored_bytes"] = stats.stored_bytes;
    dict["key_frames"] = stats.key_frames;
    dict["raw_frames"] = stats.raw_frames;
    dict["allocated_bytes"] = stats.allocated_bytes;
    return dict;
  }

 private:
  static std::size_t rows_of(const py::object& object, const char* name) {
    const py::array array = as_array(object, name);
    if (array.ndim() == 0)
      throw py::value_error(std::string(name) + ": must have rows, not be a single number");
    return static_cast<std::size_t>(array.shape(0));
  }

  Shape pixel_shape(py::ssize_t rows, std::uint32_t frames) const {
    Shape shape{rows, static_cast<py::ssize_t>(frames)};
    shape.insert(shape.end(), frame_shape_.begin(), frame_shape_.end());
    return shape;
  }

  const std::uint8_t* stacks_of(const py::object& object, const char* name, std::size_t rows,
                                std::vector<py::object>& keep) const {
    const py::array array = as_array(object, name);
    if (!holds<std::uint8_t>(array)) refuse_dtype(name, "uint8", array);
    const Shape wanted = pixel_shape(static_cast<py::ssize_t>(rows), core_.options().stack);
    Shape channels_last = wanted;
    channels_last.erase(channels_last.begin() + 1);
    channels_last.push_back(wanted[1]);
    const Shape shape = shape_of(array);
    if (shape != wanted && shape == channels_last) {
      std::string axes = "0, " + std::to_string(shape.size() - 1);
      for (std::size_t axis = 1; axis + 1 < shape.size(); ++axis) axes += ", " + std::to_string(axis);
      throw py::value_error(std::string(name) + ": shape " + text_of(shape) +
                            " has the stack last; it must be " + text_of(wanted) + ": pass " + name +
                            ".transpose(" + axes + ")");
    }
    check_shape(array, name, wanted);
    return bytes_of(array, keep);
  }

  static const std::int64_t* env_ids_of(const py::object& env_id, std::size_t rows,
                                        std::vector<py::object>& keep, std::vector<std::int64_t>& converted) {
    if (env_id.is_none()) return nullptr;
    return column_of<std::int64_t, std::int32_t>(env_id, "env_id", "int64 or int32", rows, keep, converted);
  }

  // A view into the window: the same memory, `offset` frames in. Otherwise the batch would show other pixels.
  void check_window_view(const py::object& object, const char* name, const std::uint8_t* window,
                         py::ssize_t batch, py::ssize_t offset) const {
    const py::array array = as_array(object, name);
    const std::uint32_t stack = core_.options().stack;
    const py::ssize_t frame = static_cast<py::ssize_t>(core_.options().frame_bytes());
    const bool same = holds<std::uint8_t>(array) && shape_of(array) == pixel_shape(batch, stack) &&
                      static_cast<const std::uint8_t*>(array.data()) == window + offset * frame &&
                      array.strides(0) == frame * (stack + 1) && array.strides(1) == frame;
    if (!same)
      throw py::value_error(std::string(name) + ": must be the view of window that make_batch() gives");
  }

  fastdqn::BatchView batch_view(const py::object& out, py::ssize_t batch) const {
    const std::uint32_t stack = core_.options().stack;
    const py::object obs = out.attr("obs"), next_obs = out.attr("next_obs");
    fastdqn::BatchView view;
    if (core_.options().layout == Layout::kWindow) {
      view.window = output_of<std::uint8_t>(out.attr("window"), "window", pixel_shape(batch, stack + 1));
      check_window_view(obs, "obs", view.window, batch, 0);
      check_window_view(next_obs, "next_obs", view.window, batch, 1);
    } else {
      view.obs = output_of<std::uint8_t>(obs, "obs", pixel_shape(batch, stack));
      view.next_obs = output_of<std::uint8_t>(next_obs, "next_obs", pixel_shape(batch, stack));
    }
    set_columns(view, out, batch);
    return view;
  }

  template <class View>
  static void set_columns(View& view, const py::object& out, py::ssize_t batch) {
    fastdqn::each_column(view, [&](const char* name, auto*& column) {
      column = output_of<std::remove_reference_t<decltype(*column)>>(out.attr(name), name, {batch});
    });
  }

  static py::tuple added(const std::vector<fastdqn::WrittenFrame>& written, std::size_t whole) {
    const py::ssize_t count = static_cast<py::ssize_t>(written.size());
    py::array_t<std::int64_t> slot(count), row(count), index(count);
    py::array_t<bool> final_observation(count);
    for (py::ssize_t i = 0; i < count; ++i) {
      const fastdqn::WrittenFrame& frame = written[static_cast<std::size_t>(i)];
      slot.mutable_data()[i] = frame.slot;
      row.mutable_data()[i] = frame.source_row;
      index.mutable_data()[i] = frame.source_index;
      final_observation.mutable_data()[i] = frame.source_final;
    }
    return py::make_tuple(slot, row, index, final_observation, whole);
  }

  Replay core_;
  Shape frame_shape_;
};

std::unique_ptr<PyReplay> make_replay(std::uint64_t capacity, std::uint64_t num_envs,
                                      const Shape& frame_shape, std::uint32_t stack, std::uint32_t n_step,
                                      double gamma, double alpha, int autoreset, int layout, int storage,
                                      std::uint64_t guard_frames, std::uint64_t seed) {
  ReplayOptions options;
  options.capacity = capacity;
  options.num_envs = num_envs;
  options.frame_shape.assign(frame_shape.begin(), frame_shape.end());
  options.stack = stack;
  options.n_step = n_step;
  options.gamma = gamma;
  options.alpha = alpha;
  options.autoreset = static_cast<Autoreset>(autoreset);
  options.layout = static_cast<Layout>(layout);
  options.storage = static_cast<Storage>(storage);
  options.guard_frames = guard_frames;
  options.seed = seed;
  return std::make_unique<PyReplay>(options, frame_shape);
}

py::dict saved_options(const std::string& path) {
  const ReplayOptions options = run([&] { return fastdqn::saved_options(path); });
  py::dict dict;
  dict["capacity"] = options.capacity;
  dict["num_envs"] = options.num_envs;
  dict["frame_shape"] = py::tuple(py::cast(options.frame_shape));
  dict["stack"] = options.stack;
  dict["n_step"] = options.n_step;
  dict["gamma"] = options.gamma;
  dict["alpha"] = options.alpha;
  dict["autoreset"] = static_cast<int>(options.autoreset);
  dict["layout"] = static_cast<int>(options.layout);
  dict["storage"] = static_cast<int>(options.storage);
  dict["guard_frames"] = options.guard_frames;
  dict["seed"] = options.seed;
  return dict;
}

// The names of a batch's columns, in order, with numpy's names of their types.
py::dict columns() {
  py::dict dict;
  fastdqn::BatchView view;
  fastdqn::each_column(view, [&](const char* name, auto* column) {
    dict[name] = dtype_of<std::remove_reference_t<decltype(*column)>>();
  });
  return dict;
}

// A message that may name a file, whose name need not be UTF-8.
py::object text_of(const std::exception& error) {
  return py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.what()));
}

// What the system reports becomes an OSError of the right kind (FileNotFoundError, ...).
void translate_error(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const std::system_error& error) {
    py::object os_error =
        py::module_::import("builtins").attr("OSError")(error.code().value(), text_of(error));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(os_error.ptr())), os_error.ptr());
  } catch (const std::invalid_argument& error) {
    PyErr_SetObject(PyExc_ValueError, text_of(error).ptr());
  }
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of fastdqn. Use fastdqn.replay: this module's functions are its private side.";
  module.attr("__version__") = FASTDQN_VERSION_STRING;
  module.attr("COLUMNS") = columns();
  py::register_exception_translator(translate_error);
  module.def("saved_options", &saved_options, py::arg("path"));
  module.def("available_memory_bytes", [] { return fastdqn::available_memory_bytes(); });
  module.def("grey_levels", &write_grey_levels, py::arg("stacks"), py::arg("centered"), py::arg("out"));
  module.def("has_narrow_torso", &fastdqn::has_narrow_torso);
  module.def("narrow_torso", &write_narrow_torso, py::arg("pixels"), py::arg("layers"), py::arg("maps"));
  module.def("narrow_torsos", &write_narrow_torsos, py::arg("pixels"), py::arg("layers"),
             py::arg("features"));
  module.def("narrow_torso_backward", &write_narrow_torso_backward, py::arg("gradient"), py::arg("pixels"),
             py::arg("layers"), py::arg("maps"), py::arg("gradients"));
  module.def("has_linear", &fastdqn::has_linear);
  module.def("linear", &write_linear, py::arg("rows"), py::arg("weights"), py::arg("biases"), py::arg("out"),
             py::arg("threads"), py::arg("parallel_for"));
  module.def("has_winograd_torso", &fastdqn::has_winograd_torso);
  module.def("winograd_torso", &write_winograd_torso, py::arg("stacks"), py::arg("centered"),
             py::arg("layers"), py::arg("maps"), py::arg("threads"), py::arg("parallel_for"));
  module.def("winograd_torso_backward", &write_winograd_torso_backward, py::arg("gradient"),
             py::arg("stacks"), py::arg("centered"), py::arg("layers"), py::arg("maps"), py::arg("gradients"),
             py::arg("threads"), py::arg("parallel_for"));
  // Python's own metaclass: there are no static properties, and type checkers know it.
  py::class_<PyReplay>(module, "Replay", py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)))
      .def(py::init([](std::uint64_t capacity, std::uint64_t num_envs,
                       const std::vector<py::ssize_t>& frame_shape, std::uint32_t stack, std::uint32_t n_step,
                       double gamma, double alpha, int autoreset, int layout, int storage,
                       std::uint64_t guard_frames, std::uint64_t seed) {
             return make_replay(capacity, num_envs, frame_shape, stack, n_step, gamma, alpha, autoreset,
                                layout, storage, guard_frames, seed);
           }),
           py::arg("capacity"), py::arg("num_envs"), py::arg("frame_shape"), py::arg("stack"),
           py::arg("n_step"), py::arg("gamma"), py::arg("alpha"), py::arg("autoreset"), py::arg("layout"),
           py::arg("storage"), py::arg("guard_frames"), py::arg("seed"))
      .def("begin", &PyReplay::begin, py::arg("observation"), py::arg("env_id"))
      .def("add", &PyReplay::add, py::arg("action"), py::arg("observation"), py::arg("reward"),
           py::arg("terminated"), py::arg("truncated"), py::arg("env_id"), py::arg("final_observation"))
      .def("sample", &PyReplay::sample, py::arg("batch_size"), py::arg("beta"), py::arg("out"))
      .def("plan", &PyReplay::plan, py::arg("batch_size"), py::arg("beta"), py::arg("out"))
      .def("gather", &PyReplay::gather, py::arg("row"), py::arg("out"))
      .def("read_frames", &PyReplay::read_frames, py::arg("first_slot"), py::arg("out"))
      .def("update_priorities", &PyReplay::update_priorities, py::arg("row"), py::arg("priority"))
      .def("save", &PyReplay::save, py::arg("path"))
      .def("load", &PyReplay::load, py::arg("path"))
      .def("stats", &PyReplay::stats)
      .def("invariant_violation", &PyReplay::invariant_violation)
      .def_property_readonly("ring", &PyReplay::ring)
      .def("__len__", &PyReplay::size);
}
