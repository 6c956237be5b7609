# A robot workstation: ROS 2 Jazzy, the drivers' apt packages, torch with CUDA, and this package built by colcon.
# Build from the repository's root: docker build -f docker/workstation.Dockerfile -t molmoact-ros .
FROM ros:jazzy-ros-base-noble

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# franka_ros2 is built from source by those who use its controllers; the sink libfranka needs none of it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends \
        python3-venv \
        ros-jazzy-launch-ros ros-jazzy-rmw-fastrtps-cpp ros-jazzy-rosidl-default-generators \
        ros-jazzy-common-interfaces ros-jazzy-realsense2-camera ros-jazzy-joy ros-jazzy-ros2-controllers \
        libegl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

# The group realtime may ask for real-time priority (compose gives the limits); video and plugdev are the cameras'.
RUN groupadd --system realtime \
    && useradd --create-home --groups realtime,video,plugdev --shell /bin/bash robot
USER robot
WORKDIR /home/robot/ws

# What apt has not, beside ROS's own Python: torch's wheels bring their CUDA libraries with them.
RUN python3 -m venv --system-site-packages /home/robot/venv
ENV PATH=/home/robot/venv/bin:$PATH
COPY --chown=robot:robot pyproject.toml docker/requirements /home/robot/
RUN /home/robot/requirements /home/robot/pyproject.toml libfranka onnx > /home/robot/requirements.txt \
    && pip install --no-cache-dir --requirement /home/robot/requirements.txt

COPY --chown=robot:robot . src/molmoact_ros
# An image may run on another processor than it is built on: the decoder is compiled for any with AVX2.
RUN . /opt/ros/jazzy/setup.bash \
    && colcon build --packages-select molmoact_ros --cmake-args -DBUILD_TESTING=OFF \
    -DMOLMOACT_ARCH=x86-64-v3 -DPython3_EXECUTABLE=/home/robot/venv/bin/python

COPY --chown=robot:robot docker/entrypoint /home/robot/entrypoint
ENTRYPOINT ["/home/robot/entrypoint"]
CMD ["ros2", "launch", "molmoact_ros", "fr3.launch.py"]
# Healthy while the controller's state is being heard of.
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --retries=3 \
    CMD ["/home/robot/entrypoint", "timeout", "3", "ros2", "topic", "echo", "--once", "/controller/safety_status"]
