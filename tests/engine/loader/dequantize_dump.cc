// Decodes blocks of weights from standard input: dequantize_dump TYPE_NUMBER; floats go out.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/quant/weight_blocks.h"

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const auto type = static_cast<thermocline::WeightType>(std::atoi(argv[1]));
  const thermocline::WeightTypeInfo info = thermocline::GetWeightTypeInfo(type).value();
  std::vector<std::byte> bytes;
  std::byte buffer[4096];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, stdin)) {
    bytes.insert(bytes.end(), buffer, buffer + count);
  }
  const auto num_blocks = bytes.size() / static_cast<size_t>(info.block_bytes);
  std::vector<float> values(num_blocks * static_cast<size_t>(info.block_elements));
  thermocline::Dequantize(type, bytes.data(), static_cast<int64_t>(values.size()), values.data());
  std::fwrite(values.data(), sizeof(float), values.size(), stdout);
  return 0;
}
