#pragma once

#include <prometheus/collectable.h>

#include <string>
#include <vector>

#include "server/api/api_request.h"
#include "server/http/http_types.h"

namespace thermocline {

// The engine's stats as Prometheus takes them: nothing is kept here, each scrape reads the engine.
// Names follow vLLM's, with our prefix; docs/operations.md lists them.
class EngineMetrics final : public prometheus::Collectable {
 public:
  // `context` outlives it.
  explicit EngineMetrics(const ApiContext& context) : context_(context) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const ApiContext& context_;
};

// GET /metrics, in the text format.
HttpResponse MetricsResponse(const ApiContext& context);

}  // namespace thermocline
