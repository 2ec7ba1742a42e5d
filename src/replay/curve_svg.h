// A hit rate curve as a picture: one SVG file with nothing outside of it, no script, for light and dark backgrounds.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "replay/hit_rate_curve.h"

namespace tiercel {

struct CurveCaption {
  std::string title;            // any text
  std::size_t block_bytes = 0;  // for sizes in bytes below those in percent; 0: none
};

// `curve`: of `trace`, with at least one point.
std::string curve_svg(const HitRateCurve& curve, const Trace& trace, const CurveCaption& caption);

// Any text, as it stands in XML or HTML.
std::string xml_escaped(std::string_view text);

}  // namespace tiercel
