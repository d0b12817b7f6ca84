// llama.cpp names VK_EXT_layer_settings, which Debian 12's Vulkan headers are too old for: the names alone, included first.
#include <vector>
#include <vulkan/vulkan_core.h>

#ifndef VK_EXT_layer_settings
namespace vk {
enum class LayerSettingTypeEXT { eBool32 = 0 };

struct LayerSettingEXT {
    const char *layer, *name;
    LayerSettingTypeEXT type;
    uint32_t count;
    const void *values;
};

// A driver that does not know the number skips the structure.
struct LayerSettingsCreateInfoEXT {
    VkStructureType type = static_cast<VkStructureType>(1000496000);
    const void *next = nullptr;
    uint32_t count;
    const LayerSettingEXT *settings;
    LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &all) : count(all.size()), settings(all.data()) {}
};
}
#endif
