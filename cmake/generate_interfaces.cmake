# ROS 2 from PyPI: its exported targets name include folders of the machine that built them. CMake refuses folders that
# are missing, so they are dropped. On a workstation nothing is missing and this changes nothing.
function(drop_missing_include_folders)
  get_directory_property(targets IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      set(present "")
      foreach(folder IN LISTS folders)
        if(folder MATCHES "^\\$<" OR EXISTS "${folder}")
          list(APPEND present "${folder}")
        endif()
      endforeach()
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${present}")
    endif()
  endforeach()
endfunction()

# All interfaces of this package, from its msg/, srv/ and action/. Arguments: the packages whose messages they hold.
macro(generate_interfaces)
  find_package(ament_cmake REQUIRED)
  find_package(rosidl_default_generators REQUIRED)
  foreach(package IN ITEMS ${ARGN})
    find_package(${package} REQUIRED)
  endforeach()
  drop_missing_include_folders()
  file(GLOB interfaces CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} msg/*.msg srv/*.srv action/*.action)
  rosidl_generate_interfaces(${PROJECT_NAME} ${interfaces} DEPENDENCIES ${ARGN})
  drop_missing_include_folders()  # rosidl_generate_interfaces has found more packages
  # numpy's headers serve the build only. CMake would refuse to export their folder where it lies in this one, in `.venv`.
  set(python_library ${PROJECT_NAME}__rosidl_generator_py)
  get_target_property(folders ${python_library} INTERFACE_INCLUDE_DIRECTORIES)
  set_target_properties(${python_library} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$<BUILD_INTERFACE:${folders}>")
endmacro()
