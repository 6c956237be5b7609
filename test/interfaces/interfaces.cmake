# Interfaces of the grippers' drivers and of realsense-ros, for tests: they are not on PyPI. The definitions are written
# after the published interfaces, with the names, types and order that a message needs to be understood.
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(action_msgs REQUIRED)
find_package(std_msgs REQUIRED)
include(${CMAKE_CURRENT_LIST_DIR}/../../cmake/drop_missing_include_folders.cmake)
drop_missing_include_folders()

file(GLOB files RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} msg/*.msg action/*.action)
rosidl_generate_interfaces(${PROJECT_NAME} ${files} DEPENDENCIES action_msgs std_msgs)
drop_missing_include_folders()
set(python_library ${PROJECT_NAME}__rosidl_generator_py)
get_target_property(folders ${python_library} INTERFACE_INCLUDE_DIRECTORIES)
set_target_properties(${python_library} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$<BUILD_INTERFACE:${folders}>")
