# tiercel::gloo, for ranks on CPUs, where it is found. TIERCEL_GLOO: on, off, or auto. Also installed, for find_package(tiercel).
# By hand rather than by Gloo's CMake package, which names its library by a full path of its own.
string(TOLOWER "${TIERCEL_GLOO}" _tiercel_gloo_choice)
if(NOT TARGET tiercel::gloo AND NOT _tiercel_gloo_choice STREQUAL "off")
  find_library(TIERCEL_gloo_LIBRARY gloo)
  find_path(TIERCEL_gloo_INCLUDE gloo/transport/tcp/device.h)
  mark_as_advanced(TIERCEL_gloo_LIBRARY TIERCEL_gloo_INCLUDE)
  if(TIERCEL_gloo_LIBRARY AND TIERCEL_gloo_INCLUDE)
    add_library(tiercel::gloo UNKNOWN IMPORTED GLOBAL)
    set_target_properties(tiercel::gloo PROPERTIES IMPORTED_LOCATION "${TIERCEL_gloo_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${TIERCEL_gloo_INCLUDE}")
  elseif(_tiercel_gloo_choice STREQUAL "on")
    message(FATAL_ERROR "TIERCEL_GLOO=on, but Gloo was not found (Debian: libgloo-dev)")
  endif()
endif()
