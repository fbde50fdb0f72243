#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "engine/calibration/calibration.h"
#include "kernels/base/status.h"
#include "kernels/page_format.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Says what a calibration is of: the model file's bytes, by their digest, the calibration text and
// how it is used.
struct CalibrationKey {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const CalibrationKey&) const = default;
};
CalibrationKey CalibrationKeyOf(const ContentHash& model_digest, std::span<const TokenId> tokens,
                                const KvLayout& layout);

// `directory`/calibration-<key>.bin. One file holds one calibration, little endian: a magic with
// the version, the key, the layout's numbers, the fields of Calibration, and XXH3 of all that.
std::string CalibrationPath(const std::string& directory, const CalibrationKey& key);

// kNotFound: there is none. kDataLoss: the file is not what was written, or of another model or
// version.
Result<Calibration> ReadCalibration(const std::string& path, const CalibrationKey& key,
                                    const KvLayout& layout);
// Whole or not at all: written beside its place and renamed. Makes the directory.
Status WriteCalibration(const std::string& path, const CalibrationKey& key, const KvLayout& layout,
                        const Calibration& calibration);

}  // namespace thermocline
