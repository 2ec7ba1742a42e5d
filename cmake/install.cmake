# Installs the libraries, their public headers, the program, and the package that find_package(tiercel) reads. The KV core
# and the engine are exported apart, so that a program that wants tiercel::kv needs nothing of what the engine needs.
option(TIERCEL_INSTALL "Write install rules" ${PROJECT_IS_TOP_LEVEL})

# The public headers are C++20.
target_compile_features(tiercel_kv PUBLIC cxx_std_20)
if(TARGET tiercel_engine)
  target_compile_features(tiercel_engine PUBLIC cxx_std_20)
endif()

if(NOT TIERCEL_INSTALL)
  return()
endif()

include(CMakePackageConfigHelpers)
set(tiercel_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tiercel)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/tiercel DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS tiercel_kv EXPORT tiercelKv ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${CMAKE_CURRENT_LIST_DIR}/TierLibraries.cmake DESTINATION ${tiercel_package_dir})
install(EXPORT tiercelKv NAMESPACE tiercel:: FILE tiercelKvTargets.cmake DESTINATION ${tiercel_package_dir})

set(tiercel_engine_installed FALSE)
if(TARGET tiercel_engine)
  set(tiercel_engine_installed TRUE)
  install(TARGETS tiercel_engine EXPORT tiercelEngine ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT tiercelEngine NAMESPACE tiercel:: FILE tiercelEngineTargets.cmake DESTINATION ${tiercel_package_dir})
  install(FILES ${CMAKE_CURRENT_LIST_DIR}/LibTorch.cmake ${CMAKE_CURRENT_LIST_DIR}/Gloo.cmake
    ${CMAKE_CURRENT_LIST_DIR}/Nccl.cmake DESTINATION ${tiercel_package_dir})
  foreach(library gloo nccl)
    set(tiercel_engine_has_${library} FALSE)
    if(TARGET tiercel::${library})
      set(tiercel_engine_has_${library} TRUE)
    endif()
  endforeach()
endif()
if(TARGET tiercel_cli)
  # The program finds LibTorch where it was found for the build.
  set_target_properties(tiercel_cli PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS tiercel_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/tiercelConfig.cmake.in ${PROJECT_BINARY_DIR}/tiercelConfig.cmake
  INSTALL_DESTINATION ${tiercel_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tiercelConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tiercelConfig.cmake ${PROJECT_BINARY_DIR}/tiercelConfigVersion.cmake
  DESTINATION ${tiercel_package_dir})
