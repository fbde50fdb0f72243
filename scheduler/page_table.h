#pragma once

#include <span>
#include <vector>

#include "kernels/page_format.h"

namespace thermocline {

// The pages of one sequence in order of position. Append-only while the sequence runs: where a
// page's bytes are stands in the page map, so a move never touches a table. Cut only when pages
// that were to come from a store did not. Holds ids only; references are counted by PagePool.
class PageTable {
 public:
  void Append(PageId page) { pages_.push_back(page); }
  void Truncate(size_t size) { pages_.resize(size); }
  void Clear() { pages_.clear(); }
  size_t size() const { return pages_.size(); }
  PageId operator[](size_t i) const { return pages_[i]; }
  std::span<const PageId> ids() const { return pages_; }

 private:
  std::vector<PageId> pages_;
};

}  // namespace thermocline
