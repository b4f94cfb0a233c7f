using System.Runtime.InteropServices;
using System.Text.Json;
using Native.Bench.Common;
using Native.Tools;

namespace Native.Bench.Peers;

/// <summary>Where the npm package node-llama-cpp is: llama.cpp built for many processors, which chooses among its
/// builds when it is loaded.</summary>
internal static class NodeModules
{
    /// <summary>The version that is installed, and whose inner interface node-llama-cpp.mjs uses.</summary>
    public const string Version = "3.22.1";

    private const string Package = "node-llama-cpp";

    private static readonly TimeSpan InstallTime = TimeSpan.FromMinutes(10);

    /// <summary>The package with the library for this system.</summary>
    private static string PlatformPackage
    {
        get
        {
            string system = OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "mac" : "linux";
            string processor = RuntimeInformation.OSArchitecture switch
            {
                Architecture.Arm64 => "arm64",
                Architecture.Arm => "armv7l",
                _ => "x64",
            };
            return $"@node-llama-cpp/{system}-{processor}{(system == "mac" && processor == "arm64" ? "-metal" : "")}";
        }
    }

    /// <summary>Where it is installed to: in the user's cache folder, a folder for each version.</summary>
    public static string CacheFolder
    {
        get
        {
            string user = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
            string cache =
                OperatingSystem.IsWindows() ? Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData)
                : OperatingSystem.IsMacOS() ? Path.Combine(user, "Library", "Caches")
                : Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } named ? named
                    : Path.Combine(user, ".cache");
            return Path.Combine(cache, "native", $"{Package}-{Version}");
        }
    }

    /// <summary>The folder node_modules that a user named, or the folder it is in.</summary>
    /// <exception cref="CommandException">The package isn't there.</exception>
    public static string At(string path)
    {
        foreach (string folder in (string[])[path, Path.Combine(path, "node_modules")])
            if (File.Exists(Manifest(folder))) return Path.GetFullPath(folder);
        throw new CommandException(
            $"--node-modules {path}: {Manifest(path)} is not there; expected a folder where npm install "
                + $"--omit=optional {Package}@{Version} {PlatformPackage}@{Version} was run");
    }

    /// <summary>The cache's folder node_modules, filled by npm where it is not yet: about 85 MB.</summary>
    /// <param name="folder">Where to install.</param>
    /// <param name="npm">The program.</param>
    /// <param name="ct">Gives up.</param>
    /// <exception cref="CommandException">There is no npm, or it could not install.</exception>
    public static async Task<string> InstalledAsync(string folder, string npm, CancellationToken ct)
    {
        folder = Path.GetFullPath(folder);
        string modules = Path.Combine(folder, "node_modules");
        if (File.Exists(Manifest(modules)) && File.Exists(Path.Combine(modules, PlatformPackage, "package.json")))
            return modules;
        Directory.CreateDirectory(folder);
        // Without its optional packages, which are builds for other systems and graphics processors: ours is named. Its
        // scripts would build from source.
        string[] arguments =
            ["install", "--prefix", folder, "--no-save", "--omit=optional", "--ignore-scripts", "--no-audit",
                "--no-fund", "--loglevel=error", $"{Package}@{Version}", $"{PlatformPackage}@{Version}"];
        try
        {
            await ChildProcess.RunAsync(npm, arguments, InstallTime, ct);
        }
        catch (CommandException e)
        {
            throw new CommandException(
                $"{Package} is not in {folder} and npm could not install it ({e.Message}); install it elsewhere and "
                    + "name that with --node-modules PATH, or compare with --llama-bench PATH");
        }
        return File.Exists(Manifest(modules)) ? modules
            : throw new CommandException($"npm installed {Package}, but {Manifest(modules)} is not there");
    }

    /// <summary>The version of a package that is there.</summary>
    public static string VersionIn(string modules)
    {
        using JsonDocument manifest = JsonDocument.Parse(File.ReadAllBytes(Manifest(modules)));
        return manifest.RootElement.TryGetProperty("version", out JsonElement version) ? version.ToString()
            : "of no version";
    }

    private static string Manifest(string modules) => Path.Combine(modules, Package, "package.json");
}
