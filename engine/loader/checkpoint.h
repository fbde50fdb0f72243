#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/quant/weight_blocks.h"

namespace thermocline {

// A tensor of a checkpoint. dims[0] runs fastest (GGUF's order): a matrix is {cols, rows}.
struct CheckpointTensor {
  std::string name;
  WeightType type = WeightType::kF32;
  std::vector<int64_t> dims;
  const std::byte* data = nullptr;  // in the mapped file
  size_t num_bytes = 0;
};

// A model file: metadata and named tensors, mapped, not copied, and wholly validated when opened.
// Immutable; lives as long as anything that points into its tensors.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  // Metadata by full key ("llama.block_count"). kNotFound when absent, kInvalidArgument when of
  // another type or out of the target's range; both name the key.
  virtual Result<int64_t> ReadInt(std::string_view key) const = 0;
  virtual Result<double> ReadFloat(std::string_view key) const = 0;
  virtual Result<bool> ReadBool(std::string_view key) const = 0;
  virtual Result<std::string> ReadString(std::string_view key) const = 0;
  virtual Result<std::vector<std::string>> ReadStrings(std::string_view key) const = 0;
  virtual Result<std::vector<int64_t>> ReadInts(std::string_view key) const = 0;
  virtual Result<std::vector<double>> ReadFloats(std::string_view key) const = 0;

  virtual const CheckpointTensor* FindTensor(std::string_view name) const = 0;  // null: absent
  virtual const std::vector<CheckpointTensor>& tensors() const = 0;

  virtual std::span<const std::byte> bytes() const = 0;  // all of the file

  // A hint that a tensor has been copied: the memory that its bytes take may be given back. They
  // can be read again.
  virtual void Release(const CheckpointTensor& tensor) const = 0;
};

// Opens a model file of any format that there is a reader for: GGUF. kNotFound when there is no
// such file; kInvalidArgument or kUnimplemented with one line that names what is wrong with it.
Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path);

}  // namespace thermocline
