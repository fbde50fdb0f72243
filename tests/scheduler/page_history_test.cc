// A million random operations on a pool of pages: see PageHistory.

#include <gtest/gtest.h>

#include "tests/scheduler/page_history.h"

namespace thermocline {
namespace {

TEST(PageHistory, AMillionRandomOperationsKeepEveryByteAndDeceiveNoReader) {
  PageHistory::Counts sum;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    PageHistory history(122 + static_cast<int>(seed % 4) * 40, seed);
    for (int i = 0; i < 50000; ++i) {
      history.RunRandomOperation();
      history.ExpectNoReaderDeceived();
      if (i % 20 == 0) {
        history.ExpectContent();
      }
      if (testing::Test::HasFatalFailure()) {
        FAIL() << "seed " << seed << " operation " << i;
      }
    }
    const PageHistory::Counts& counts = history.counts();
    sum.commits += counts.commits;
    sum.failures += counts.failures;
    sum.corrupt += counts.corrupt;
    sum.compactions += counts.compactions;
    sum.shared += counts.shared;
    sum.cancelled += counts.cancelled;
    sum.cancelled_in_move += counts.cancelled_in_move;
    sum.full_arenas += counts.full_arenas;
    sum.saved += counts.saved;
    sum.loaded += counts.loaded;
    sum.failed_loads += counts.failed_loads;
    sum.refused_begins += counts.refused_begins;
    sum.refused_commits += counts.refused_commits;
    sum.refused_loads += counts.refused_loads;
    sum.woken += counts.woken;
    sum.woken_exact += counts.woken_exact;
    sum.computed_lossy += counts.computed_lossy;
    history.EndAll();
  }
  // The histories do reach what they are for.
  EXPECT_GT(sum.commits, 20000U);
  EXPECT_GT(sum.failures, 5000U);
  EXPECT_GT(sum.corrupt, 200U);
  EXPECT_GT(sum.compactions, 500U);
  EXPECT_GT(sum.shared, 10000U);
  EXPECT_GT(sum.cancelled, 10000U);
  EXPECT_GT(sum.cancelled_in_move, 500U);
  EXPECT_GT(sum.full_arenas, 500U);
  EXPECT_GT(sum.saved, 1500U);
  EXPECT_GT(sum.loaded, 2000U);
  EXPECT_GT(sum.failed_loads, 500U);
  EXPECT_GT(sum.refused_begins, 10000U);
  EXPECT_GT(sum.refused_commits, 200U);
  EXPECT_GT(sum.refused_loads, 100U);
  EXPECT_GT(sum.woken, 500U);
  EXPECT_GT(sum.woken_exact, 100U);
  EXPECT_GT(sum.computed_lossy, 10000U);
}

}  // namespace
}  // namespace thermocline
