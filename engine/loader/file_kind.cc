#include "engine/loader/file_kind.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "kernels/base/printable.h"
#include "kernels/quant/weight_blocks.h"

namespace thermocline {
namespace {

constexpr std::string_view kConvert =
    "convert the checkpoint's directory with llama.cpp's convert_hf_to_gguf.py";
constexpr std::string_view kUnpack = "a compressed file; unpack it";

struct Beginning {
  std::string_view bytes;
  std::string_view meaning;
};

constexpr Beginning kBeginnings[] = {
    {"lmgg", "a file of ggml's format before GGUF; convert the model again"},
    {"fmgg", "a file of ggml's format before GGUF; convert the model again"},
    {"tjgg", "a file of ggml's format before GGUF; convert the model again"},
    {"GGML", "a file of ggml's format before GGUF; convert the model again"},
    {"PK\x03\x04", "a zip archive, as PyTorch's checkpoints are; convert it to GGUF"},
    {"version https://git-lfs", "a Git LFS pointer, not the file; fetch it with git lfs pull"},
    {"<", "a web page or XML, perhaps in place of the file that was to be downloaded"},
    {"{", "JSON, perhaps a checkpoint's config; name the GGUF file"},
    {"\x1f\x8b", kUnpack},
    {"BZh", kUnpack},
    {"\xfd"
     "7zXZ",
     kUnpack},
    {"\x28\xb5\x2f\xfd", kUnpack},
    {"7z\xbc\xaf", kUnpack},
    {"\x89HDF", "an HDF5 file; convert the model to GGUF"},
    {"\x7f"
     "ELF",
     "a program"},
};

// A safetensors file begins with the length of its JSON header.
bool IsSafetensors(std::span<const std::byte> bytes) {
  uint64_t header = 0;
  if (bytes.size() < sizeof(header) + 2) {
    return false;
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  return header >= 2 && header <= bytes.size() - sizeof(header) && bytes[8] == std::byte{'{'};
}

bool IsPickle(std::string_view text) {
  return text.size() >= 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5;
}

}  // namespace

Status NotGguf(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                              std::min<size_t>(bytes.size(), 64));
  if (IsSafetensors(bytes)) {
    return InvalidArgument("magic: not a GGUF file but safetensors; {}", kConvert);
  }
  if (IsPickle(text)) {
    return InvalidArgument("magic: not a GGUF file but a Python pickle; {}", kConvert);
  }
  for (const Beginning& beginning : kBeginnings) {
    if (text.starts_with(beginning.bytes)) {
      return InvalidArgument("magic: not a GGUF file but {}", beginning.meaning);
    }
  }
  if (std::all_of(text.begin(), text.end(), [](char c) { return c == 0; })) {
    return InvalidArgument(
        "magic: not a GGUF file: it begins with zeros, as a download that was cut short may");
  }
  return InvalidArgument("magic: not a GGUF file: it begins with \"{}\"", Printable(text, 16));
}

Status UnreadableVersion(uint32_t version) {
  const uint32_t swapped = __builtin_bswap32(version);
  if (swapped >= 1 && swapped <= 3) {
    return InvalidArgument(
        "version: the file is big-endian, only little-endian ones are read; gguf-convert-endian of "
        "Python's gguf package converts it");
  }
  return InvalidArgument("version: {} is not supported, only 2 and 3; {}", version,
                         version < 2 ? "convert the model again" : "it may be newer than this");
}

Status IsDirectory(const std::string& path) {
  namespace fs = std::filesystem;
  constexpr size_t kMaxNames = 5;
  std::vector<std::string> names;
  bool has_safetensors = false;
  std::error_code error;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path& file = entry->path();
    has_safetensors = has_safetensors || file.extension() == ".safetensors";
    if (file.extension() == ".gguf") {
      names.push_back(Printable(file.filename().string()));
    }
  }
  std::sort(names.begin(), names.end());
  if (names.empty()) {
    return InvalidArgument("{}: a directory without a GGUF file{}", path,
                           has_safetensors ? fmt::format("; {}", kConvert) : "");
  }
  const size_t more = names.size() - std::min(names.size(), kMaxNames);
  names.resize(names.size() - more);
  return InvalidArgument("{}: a directory; name a file in it: {}{}", path, fmt::join(names, ", "),
                         more > 0 ? fmt::format(" and {} more", more) : "");
}

std::string TensorTypeName(uint32_t type) {
  // ggml's numbers; empty: taken out of the format, or never in a file.
  static constexpr std::string_view kNames[] = {
      "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
      "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
      "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
      "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
      "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
      "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4",    "Q1_0",
  };
  return type < std::size(kNames) ? std::string(kNames[type]) : fmt::format("{}", type);
}

std::string ReadableTensorTypes() {
  std::vector<std::string> names;
  for (uint32_t type = 0; type < 64; ++type) {
    if (GetWeightTypeInfo(static_cast<WeightType>(type))) {
      names.push_back(TensorTypeName(type));
    }
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace thermocline
