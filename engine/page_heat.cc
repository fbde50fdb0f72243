#include "engine/page_heat.h"

#include <utility>

#include "engine/kv/host_copy.h"

namespace thermocline {
namespace {

float* Floats(const Buffer& buffer) {
  return static_cast<float*>(static_cast<void*>(buffer.data()));
}

}  // namespace

Result<Transformer::WatchedLayers> PageHeatReader::Begin(std::span<const int> probe_layers,
                                                         int num_kv_heads, int num_pages) {
  const auto num_layers = static_cast<int64_t>(probe_layers.size());
  const auto bytes_of = [](int64_t count) { return static_cast<size_t>(count) * sizeof(float); };
  const int64_t num_energies = num_layers * num_pages * num_kv_heads;
  const size_t heat_bytes = bytes_of(int64_t{2} * num_pages);
  RETURN_IF_ERROR(Reserve(device_, bytes_of(num_energies), Placement::kDevice, energy_buffer_));
  RETURN_IF_ERROR(Reserve(device_, heat_bytes, Placement::kDevice, heat_buffer_));
  RETURN_IF_ERROR(Reserve(device_, heat_bytes, Placement::kHost, host_heat_));
  energies_ = Tensor(Floats(energy_buffer_), {num_layers, num_pages, num_kv_heads});
  heat_ = Tensor(Floats(heat_buffer_), {num_pages, 2});
  return Transformer::WatchedLayers{.layers = probe_layers, .energy = energies_};
}

void PageHeatReader::Fold(Stream& stream) {
  device_.ops().FoldEnergies(energies_, heat_, stream);
  stream.Copy(host_heat_.data(), heat_buffer_.data(),
              static_cast<size_t>(heat_.num_elements()) * sizeof(float));
}

std::vector<std::vector<PageHeat>> PageHeatReader::Read(const BatchView& batch) const {
  std::vector<std::vector<PageHeat>> heat(static_cast<size_t>(batch.num_sequences));
  const float* folded = Floats(host_heat_);
  for (int s = 0; s < batch.num_sequences; ++s) {
    for (int page = batch.page_starts[s]; page < batch.page_starts[s + 1]; ++page) {
      heat[static_cast<size_t>(s)].push_back(
          {.peak = folded[2 * page], .mean = folded[2 * page + 1]});
    }
  }
  return heat;
}

}  // namespace thermocline
