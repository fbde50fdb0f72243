#include "engine/calibration/calibration_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <type_traits>
#include <vector>

#include "engine/store/file_io.h"
#include "engine/store/posix_file_io.h"

namespace thermocline {
namespace {

constexpr char kMagic[8] = {'T', 'H', 'R', 'M', 'C', 'A', 'L', '6'};
constexpr uintmax_t kMaxFileBytes = uintmax_t{256} << 20;

class Writer {
 public:
  template <typename T>
  void Add(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* begin = static_cast<const char*>(static_cast<const void*>(&value));
    bytes.append(begin, sizeof(T));
  }
  template <typename T>
  void AddAll(const std::vector<T>& values) {
    Add(static_cast<uint32_t>(values.size()));
    for (const T& value : values) {
      Add(value);
    }
  }
  std::string bytes;
};

// Past the end it reads zeros and is no longer good().
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <typename T>
  T Take() {
    T value{};
    if (left_.size() < sizeof(T)) {
      good_ = false;
      return value;
    }
    std::memcpy(&value, left_.data(), sizeof(T));
    left_.remove_prefix(sizeof(T));
    return value;
  }
  template <typename T>
  std::vector<T> TakeAll() {
    const auto count = Take<uint32_t>();
    good_ = good_ && count <= left_.size() / sizeof(T);
    std::vector<T> values;
    for (uint32_t i = 0; good_ && i < count; ++i) {
      values.push_back(Take<T>());
    }
    return values;
  }
  bool good() const { return good_; }
  bool at_end() const { return left_.empty(); }

 private:
  std::string_view left_;
  bool good_ = true;
};

std::string Payload(const CalibrationKey& key, const KvLayout& layout,
                    const Calibration& calibration) {
  Writer writer;
  writer.bytes.append(kMagic, sizeof(kMagic));
  writer.Add(key);
  writer.Add(layout);
  writer.AddAll(calibration.formats.cold);
  writer.AddAll(calibration.formats.mean_keys);
  writer.AddAll(calibration.formats.query_factors);
  writer.AddAll(calibration.probe_layers);
  writer.Add(calibration.warm_kl);
  writer.Add(calibration.cold_kl);
  writer.Add(calibration.uniform_kl);
  writer.AddAll(calibration.layer_kl);
  writer.AddAll(calibration.layer_is_measured);
  return std::move(writer.bytes);
}

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

// Whoever may read the directory may read the file: nobody's conversation is in it.
constexpr PosixFileIo::Modes kModes{.file = 0666, .directory = 0777};

// The directory may be a link, or lie behind one; the file is none.
Result<std::string> Resolve(const std::string& path) {
  const std::filesystem::path file(path);
  Result<std::string> directory =
      ResolveDirectory(file.has_parent_path() ? file.parent_path().string() : ".");
  return directory.ok() ? Result<std::string>(*directory + "/" + file.filename().string())
                        : directory;
}

// What readers and writers of pages rely on.
bool IsSound(const Calibration& calibration, const KvLayout& layout) {
  const auto num_layers = static_cast<size_t>(layout.num_layers);
  const auto head_dim = static_cast<size_t>(layout.head_dim);
  const size_t num_means = num_layers * static_cast<size_t>(layout.num_kv_heads) * head_dim;
  const KvFormats& formats = calibration.formats;
  return formats.cold.size() == num_layers &&
         std::all_of(formats.cold.begin(), formats.cold.end(),
                     [](Codec codec) {
                       return codec == Codec::kInt8 || codec == Codec::kTurbo3 ||
                              codec == Codec::kTurboK4V3;
                     }) &&
         (formats.mean_keys.empty() || formats.mean_keys.size() == num_means) &&
         (formats.query_factors.empty() || formats.query_factors.size() == num_means * head_dim) &&
         AllFinite(formats.mean_keys) && AllFinite(formats.query_factors) &&
         std::all_of(calibration.probe_layers.begin(), calibration.probe_layers.end(),
                     [&](int layer) { return layer >= 0 && layer < layout.num_layers; }) &&
         AllFinite(calibration.layer_kl) &&
         calibration.layer_is_measured.size() == calibration.layer_kl.size() &&
         (calibration.layer_kl.empty() || calibration.layer_kl.size() == num_layers);
}

}  // namespace

CalibrationKey CalibrationKeyOf(const ContentHash& model_digest, std::span<const TokenId> tokens,
                                const KvLayout& layout) {
  Writer writer;
  writer.Add(model_digest);
  writer.Add(layout);
  for (const TokenId token : tokens) {
    writer.Add(token);
  }
  const XXH128_hash_t key = XXH3_128bits(writer.bytes.data(), writer.bytes.size());
  return {.low = key.low64, .high = key.high64};
}

std::string CalibrationPath(const std::string& directory, const CalibrationKey& key) {
  return (std::filesystem::path(directory) /
          fmt::format("calibration-{:016x}{:016x}.bin", key.high, key.low))
      .string();
}

Result<Calibration> ReadCalibration(const std::string& path, const CalibrationKey& key,
                                    const KvLayout& layout) {
  const Result<std::string> place = Resolve(path);
  const Result<std::vector<std::byte>> read =
      place.ok() ? PosixFileIo(kModes).ReadFile(*place, kMaxFileBytes) : place.status();
  if (read.status().code() == StatusCode::kNotFound) {
    return NotFound("there is no calibration at {}", path);
  }
  if (!read.ok()) {
    return DataLoss("{} cannot be read as a calibration", path);
  }
  const std::string_view bytes(reinterpret_cast<const char*>(read->data()), read->size());
  const size_t payload = bytes.size() < sizeof(uint64_t) ? 0 : bytes.size() - sizeof(uint64_t);
  Reader tail(bytes.substr(payload));
  if (tail.Take<uint64_t>() != XXH3_64bits(bytes.data(), payload) || !tail.good()) {
    return DataLoss("{} is damaged: its checksum is wrong", path);
  }
  Reader reader(bytes.substr(0, payload));
  const auto magic = reader.Take<std::array<char, sizeof(kMagic)>>();
  const auto file_key = reader.Take<CalibrationKey>();
  const auto file_layout = reader.Take<KvLayout>();
  if (!std::equal(magic.begin(), magic.end(), kMagic) || !(file_key == key) ||
      std::memcmp(&file_layout, &layout, sizeof(layout)) != 0) {
    return DataLoss("{} is of another model or version", path);
  }
  Calibration calibration;
  calibration.formats.cold = reader.TakeAll<Codec>();
  calibration.formats.mean_keys = reader.TakeAll<float>();
  calibration.formats.query_factors = reader.TakeAll<float>();
  calibration.probe_layers = reader.TakeAll<int>();
  calibration.warm_kl = reader.Take<double>();
  calibration.cold_kl = reader.Take<double>();
  calibration.uniform_kl = reader.Take<double>();
  calibration.layer_kl = reader.TakeAll<float>();
  calibration.layer_is_measured = reader.TakeAll<uint8_t>();
  if (!reader.good() || !reader.at_end() || !IsSound(calibration, layout)) {
    return DataLoss("{} holds no sound calibration", path);
  }
  return calibration;
}

Status WriteCalibration(const std::string& path, const CalibrationKey& key, const KvLayout& layout,
                        const Calibration& calibration) {
  std::string bytes = Payload(key, layout, calibration);
  Writer checksum;
  checksum.Add(static_cast<uint64_t>(XXH3_64bits(bytes.data(), bytes.size())));
  bytes += checksum.bytes;
  const Result<std::string> place = Resolve(path);
  Status status = place.status();
  if (place.ok()) {
    PosixFileIo io(kModes);
    status = io.MakeDirectories(std::filesystem::path(*place).parent_path().string());
    if (status.ok()) {
      status = WriteWholeFile(io, *place, std::as_bytes(std::span(bytes)));
    }
  }
  return status.ok() ? status : Unavailable("cannot write {}: {}", path, status.message());
}

}  // namespace thermocline
