using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace Native.Tests.Concurrency;

/// <summary>A place in a source where a fault can be planted.</summary>
/// <param name="Number">Its number.</param>
/// <param name="File">The file's name.</param>
/// <param name="Line">Counted from 1.</param>
/// <param name="Member">The method or property it is in.</param>
/// <param name="Source">The source there.</param>
/// <param name="Text">The same, with a number where it is not the first of the member.</param>
/// <param name="Kinds">Faults that make sense there.</param>
internal sealed record Site(
    int Number, string File, int Line, string Member, string Source, string Text, FaultKind[] Kinds)
{
    /// <summary>Type and member.</summary>
    public string Place => $"{Path.GetFileNameWithoutExtension(File)}.{Member}";
}

/// <summary>The scheduler's sources and the scenarios, compiled together, with Volatile, Interlocked and what else
/// makes threads meet replaced by the model's, or by the machine's with lost time.</summary>
internal sealed class ModelledSources
{
    /// <summary>Files whose shared variables are modelled, and into which faults are planted.</summary>
    private static readonly string[] Modelled =
        [
            "Inbox.cs", "SignalStack.cs", "TokenLog.cs", "SpscRing.cs", "SeqLock.cs", "TokenStream.cs", "Engine.cs",
            "ObjectiveBudget.cs", "CacheEvents.cs", "Share.cs", "RateLimit.cs", "Scenarios.cs",
        ];

    private const string Usings = """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Threading;
        global using System.Threading.Tasks;

        """;

    // In the modelled files alone: the others keep .NET's own.
    private const string OfModel = """
        using Volatile = Native.Tests.Concurrency.ModelVolatile;
        using Interlocked = Native.Tests.Concurrency.ModelInterlocked;
        using AutoResetEvent = Native.Tests.Concurrency.ModelEvent;
        using Thread = Native.Tests.Concurrency.ModelThread;
        using SpinWait = Native.Tests.Concurrency.ModelSpin;
        using Native.Tests.Concurrency;

        """;

    private const string OfMachine = """
        using Volatile = Native.Tests.Concurrency.JitterVolatile;
        using Interlocked = Native.Tests.Concurrency.JitterInterlocked;

        """;

    private readonly Type _scenarios;

    private ModelledSources(bool modelled)
    {
        CSharpCompilation plain = Plain();
        HashSet<ISymbol> variables = SharedVariables.Of(plain, Modelled);
        SourceRewriter rewriter = new(plain, variables, Modelled);
        SyntaxTree[] trees = [.. plain.SyntaxTrees.Select(tree =>
            !Modelled.Contains(Path.GetFileName(tree.FilePath)) ? tree
            : Parse(modelled ? OfModel + rewriter.Rewrite(tree) : OfMachine + tree, tree.FilePath))];
        Sites = rewriter.Sites;
        CSharpCompilation made = plain.RemoveAllSyntaxTrees().AddSyntaxTrees(trees);
        using MemoryStream code = new();
        Microsoft.CodeAnalysis.Emit.EmitResult result = made.Emit(code);
        Assert.True(result.Success, string.Join('\n', result.Diagnostics
            .Where(found => found.Severity == DiagnosticSeverity.Error).Take(10)));
        code.Position = 0;
        AssemblyLoadContext context = new(made.AssemblyName);
        _scenarios = context.LoadFromStream(code).GetType("Native.Tests.Concurrency.Scenarios", throwOnError: true)!;
    }

    /// <summary>For the model.</summary>
    public static ModelledSources Model => field ??= new ModelledSources(modelled: true);

    /// <summary>For the machine.</summary>
    public static ModelledSources Machine => field ??= new ModelledSources(modelled: false);

    /// <summary>Where faults can be planted.</summary>
    public IReadOnlyList<Site> Sites { get; }

    /// <summary>A scenario by its name.</summary>
    public Action<World> Scenario(string name) =>
        _scenarios.GetMethod(name, BindingFlags.Public | BindingFlags.Static)!.CreateDelegate<Action<World>>();

    private static CSharpCompilation Plain()
    {
        string here = Path.GetDirectoryName(ThisFile())!;
        string scheduler = Path.GetFullPath(Path.Combine(here, "../../scheduler"));
        Assert.SkipUnless(Directory.Exists(scheduler), "the sources are not where they were built");
        string[] files = [.. Directory.EnumerateFiles(scheduler, "*.cs", SearchOption.AllDirectories)
            .Where(file => !Path.GetRelativePath(scheduler, file).Split(Path.DirectorySeparatorChar)
                .Any(part => part is "bin" or "obj")).Order(), Path.Combine(here, "Scenarios.cs")];
        string loaded = (string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!;
        IEnumerable<MetadataReference> references = loaded.Split(Path.PathSeparator)
            .Where(path => Path.GetFileName(path) is not ("Native.Scheduling.dll" or "Native.Bench.dll"
                or "Native.Server.dll" or "Native.Tools.dll"))
            .Select(path => MetadataReference.CreateFromFile(path));
        return CSharpCompilation.Create("Native.Scheduling.Concurrency",
            [Parse(Usings, "Usings.cs"), .. files.Select(file => Parse(File.ReadAllText(file), file))], references,
            new CSharpCompilationOptions(OutputKind.DynamicallyLinkedLibrary, allowUnsafe: true,
                optimizationLevel: OptimizationLevel.Release, nullableContextOptions: NullableContextOptions.Enable));
    }

    private static SyntaxTree Parse(string text, string path) =>
        CSharpSyntaxTree.ParseText(text, new CSharpParseOptions(LanguageVersion.Preview), path);

    private static string ThisFile([CallerFilePath] string path = "") => path;
}
