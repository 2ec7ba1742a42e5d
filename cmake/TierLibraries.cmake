# What the tiers of tiercel::kv link: tiercel::zstd, tiercel::crypto (OpenSSL), and tiercel::uring where it is found (else disks are
# read by a thread pool). Also installed, for find_package(tiercel). Without pkg-config, which tiercel::kv does not need.
#
# TIERCEL_TIER_LIBRARIES_MISSING: what to install, empty where nothing is missing.
set(TIERCEL_TIER_LIBRARIES_MISSING)

# _tiercel_import(NAME LIBRARY HEADER)
function(_tiercel_import name library header)
  if(TARGET tiercel::${name})
    return()
  endif()
  find_library(TIERCEL_${name}_LIBRARY ${library})
  find_path(TIERCEL_${name}_INCLUDE ${header})
  mark_as_advanced(TIERCEL_${name}_LIBRARY TIERCEL_${name}_INCLUDE)
  if(TIERCEL_${name}_LIBRARY AND TIERCEL_${name}_INCLUDE)
    add_library(tiercel::${name} UNKNOWN IMPORTED GLOBAL)
    set_target_properties(tiercel::${name} PROPERTIES IMPORTED_LOCATION "${TIERCEL_${name}_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${TIERCEL_${name}_INCLUDE}")
  endif()
endfunction()

_tiercel_import(zstd zstd zstd.h)
if(NOT TARGET tiercel::zstd)
  list(APPEND TIERCEL_TIER_LIBRARIES_MISSING "zstd (Debian: libzstd-dev)")
endif()
# Not by find_package(OpenSSL), which calls pkg-config's functions even where these are switched off.
_tiercel_import(crypto crypto openssl/evp.h)
if(NOT TARGET tiercel::crypto)
  list(APPEND TIERCEL_TIER_LIBRARIES_MISSING "OpenSSL (Debian: libssl-dev)")
endif()
_tiercel_import(uring uring liburing.h)
