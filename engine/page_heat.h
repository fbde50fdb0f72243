#pragma once

#include <span>
#include <vector>

#include "engine/model/transformer.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "scheduler/step_plan.h"

namespace thermocline {

// What a step's attention tells of its pages: energies of the probe layers on the device, folded
// there to two numbers a page, which the host reads. Used by the thread that runs steps; the device
// outlives it.
class PageHeatReader {
 public:
  explicit PageHeatReader(Device& device) : device_(device) {}

  // Room for a step of `num_pages` pages, before its forward pass, which is given the result.
  Result<Transformer::WatchedLayers> Begin(std::span<const int> probe_layers, int num_kv_heads,
                                           int num_pages);
  // After the forward pass; enqueues.
  void Fold(Stream& stream);
  // Once the stream has been synced: StepResult::heat.
  std::vector<std::vector<PageHeat>> Read(const BatchView& batch) const;

 private:
  Device& device_;
  Tensor energies_;  // [probe layers, pages, KV heads], in energy_buffer_
  Tensor heat_;      // [pages, 2], in heat_buffer_
  Buffer energy_buffer_;
  Buffer heat_buffer_;
  Buffer host_heat_;  // as heat_
};

}  // namespace thermocline
