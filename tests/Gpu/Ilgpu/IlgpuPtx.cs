using System.Reflection;
using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Backends;
using ILGPU.Backends.EntryPoints;
using ILGPU.Backends.PTX;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using Native.Kernels.Ilgpu;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>The PTX that ILGPU makes of the kernels for a GPU of compute capability 8.0, run on the machine.</summary>
internal static class IlgpuPtx
{
    private static readonly Lock s_lock = new();
    private static readonly Dictionary<MethodInfo, string> s_made = [];

    private static readonly Lazy<(Context Context, PTXBackend Backend)> s_backend = new(() =>
    {
        Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O2).EnableAlgorithms());
        CudaArchitecture architecture = new(8, 0);
        return (context, new PTXBackend(context, new CudaCapabilityContext(architecture), architecture,
            CudaInstructionSet.ISA_74, null!));
    });

    /// <summary>The text for one kernel, a method with type arguments.</summary>
    public static string Of(Type type, string method, Type[] arguments)
    {
        MethodInfo kernel = type.GetMethod(method)!;
        if (arguments.Length > 0) kernel = kernel.MakeGenericMethod(arguments);
        lock (s_lock)
        {
            if (s_made.TryGetValue(kernel, out string? made)) return made;
            EntryPointDescription entry = EntryPointDescription.FromExplicitlyGroupedKernel(kernel);
            var compiled = (PTXCompiledKernel)s_backend.Value.Backend.Compile(entry, KernelSpecialization.Empty);
            return s_made[kernel] = compiled.PTXAssembly;
        }
    }

    /// <summary>Runs a kernel; structures are written from the fields that are named, others are 0.</summary>
    public static void Launch(DeviceMemory memory, Type type, string method, Type[] arguments, Dim3 grid, int threads,
        LaunchOptions options, params object[] values)
    {
        using GpuModule module = new(Of(type, method, arguments), memory);
        ParameterInfo[] parameters = type.GetMethod(method)!.GetParameters();
        object[] packed = [.. values.Select((value, i) => Packed(parameters[i].ParameterType, value))];
        module.Launch(module.Kernels.Keys.Single(), grid, new(threads), packed, options: options);
    }

    /// <summary>A structure's fields by their names.</summary>
    public static Dictionary<string, object> Fields(params (string Name, object Value)[] fields) =>
        fields.ToDictionary(field => field.Name, field => field.Value);

    /// <summary>An argument as ILGPU passes it: a view as its address and its length.</summary>
    private static object Packed(Type type, object value)
    {
        if (!type.IsValueType || type.IsPrimitive) return value;
        List<byte> bytes = [];
        Write(type, value, bytes);
        while (bytes.Count % 8 != 0) bytes.Add(0);
        return bytes.ToArray();
    }

    private static unsafe void Write(Type type, object? value, List<byte> bytes)
    {
        if (type.IsGenericType && type.GetGenericTypeDefinition() == typeof(ArrayView<>))
        {
            while (bytes.Count % 8 != 0) bytes.Add(0);
            var range = value as MemoryRange;
            int size = System.Runtime.InteropServices.Marshal.SizeOf(type.GetGenericArguments()[0]);
            bytes.AddRange(BitConverter.GetBytes(range is null ? 0 : (long)range.Data));
            bytes.AddRange(BitConverter.GetBytes(range is null ? 0 : range.Bytes / size));
        }
        else if (type == typeof(int)) bytes.AddRange(BitConverter.GetBytes((int)(value ?? 0)));
        else if (type == typeof(float)) bytes.AddRange(BitConverter.GetBytes((float)(value ?? 0f)));
        else
        {
            var fields = value as Dictionary<string, object> ?? [];
            FieldInfo[] all = type.GetFields(BindingFlags.Instance | BindingFlags.Public);
            Assert.Empty(fields.Keys.Except(all.Select(field => field.Name)));
            foreach (FieldInfo field in all) Write(field.FieldType, fields.GetValueOrDefault(field.Name), bytes);
        }
    }
}

/// <summary>A step's words as <see cref="StepInput"/> has them.</summary>
internal sealed class TestWords
{
    private readonly List<int> _words = [];
    private readonly Dictionary<string, object> _fields = [];

    public TestWords Part(string name, int[] values)
    {
        _fields[name] = _words.Count;
        _words.AddRange(values);
        return this;
    }

    public TestWords Set(string name, int value)
    {
        _fields[name] = value;
        return this;
    }

    /// <summary>Where the next part begins.</summary>
    public int Count => _words.Count;

    /// <summary>In the machine's memory, as an argument.</summary>
    public Dictionary<string, object> In(DeviceMemory memory)
    {
        _fields["Words"] = memory.Allocate<int>("the step", _words.ToArray());
        return _fields;
    }
}
