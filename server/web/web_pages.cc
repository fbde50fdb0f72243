#include "server/web/web_pages.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <string>

namespace thermocline {
namespace {

HttpResponse Page(const Asset& asset, const std::string& etag, std::string_view known_etag) {
  HttpResponse response;
  response.headers = {
      {"ETag", etag},
      {"Cache-Control", "no-cache"},
      {"Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"},
      {"Referrer-Policy", "no-referrer"}};
  if (known_etag.find(etag) != std::string_view::npos) {
    response.status = 304;
    return response;
  }
  response.content_type = asset.content_type;
  response.body = asset.body;
  return response;
}

}  // namespace

void AddWebPages(std::span<const Asset> assets, Router& router) {
  for (const Asset& asset : assets) {
    const std::string_view body = asset.body;
    const std::string etag = fmt::format("\"{:016x}\"", XXH3_64bits(body.data(), body.size()));
    const HttpHandler handler = [&asset, etag](const RequestPtr& request, const WriterPtr& writer) {
      writer->Respond(Page(asset, etag, request->Header("if-none-match")));
    };
    std::string path(asset.path);
    if (!path.starts_with('/')) {
      path.insert(0, "/");
    }
    if (path == "/index.html") {
      router.Add("GET", "/", handler);
    }
    router.Add("GET", path, handler);
  }
}

}  // namespace thermocline
