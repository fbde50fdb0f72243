#pragma once

#include <span>

#include "server/http/router.h"
#include "server/web/assets.h"

namespace thermocline {

// Serves the pages that are built into the program: `/index.html` also as `/`. Only from here, with
// nothing from elsewhere (Content-Security-Policy), and revalidated by ETag. The assets' storage
// outlives the router.
void AddWebPages(std::span<const Asset> assets, Router& router);

}  // namespace thermocline
