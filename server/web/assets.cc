#include "server/web/assets.h"

#include <array>

#include "server/web/app_js.h"
#include "server/web/index_html.h"
#include "server/web/kv_strip_js.h"
#include "server/web/sessions_js.h"
#include "server/web/style_css.h"

namespace thermocline {

std::span<const Asset> WebAssets() {
  static constexpr std::array<Asset, 5> kAssets = {{
      {"/", "text/html; charset=utf-8", kIndexHtml},
      {"/style.css", "text/css; charset=utf-8", kStyleCss},
      {"/app.js", "text/javascript; charset=utf-8", kAppJs},
      {"/kv_strip.js", "text/javascript; charset=utf-8", kKvStripJs},
      {"/sessions.js", "text/javascript; charset=utf-8", kSessionsJs},
  }};
  return kAssets;
}

}  // namespace thermocline
